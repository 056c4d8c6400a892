"""What is trained on: composed sentences, corpora of one's own, and the order that clips come
in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from fixtures.errors import BadFeatures
from fixtures.landmarks import Landmarks
from model.augmentation import altered, altered_features
from model.data import Data, Order, Remembered, seed_of
from model.own_corpus import own_data
from model.run_record import data_described_by
from model.sentences import Plans, Sentences
from pytest_overfit.subject import Sample
from tests.fixtures.own_folder import corpus_2014, features


@pytest.fixture(scope="module")
def few() -> Data:
    return Sentences(train=30, val=20).data()


def spelled(data: Data, sample: Sample) -> tuple[str, ...]:
    return tuple(data.vocabulary[token] for token in sample.target.tolist())


# -- composed sentences ----------------------------------------------------------------------------


def test_a_sentence_is_three_to_six_letters_of_one_language_in_thirty_to_a_hundred_frames(
    few: Data,
) -> None:
    assert len(few.vocabulary) == 27
    for sample in [*few.train, *few.val]:
        assert 3 <= len(sample.target) <= 6
        assert 30 <= sample.frames <= 108
        assert sample.features.shape[1] == 1629
        assert {name.split(":")[0] for name in spelled(few, sample)} == {"ase"}


def test_validation_sentences_are_in_no_training_set() -> None:
    plans = Plans(wanted=Sentences(train=2000, val=60), recordings=tuple(range(5)))
    unseen = {sentence.letters for sentence in plans.val}
    assert unseen.isdisjoint(sentence.letters for sentence in plans.train)
    assert len({sentence.letters for sentence in plans.train}) > 800  # of 125 + 625 + 3125 + 15625


def test_some_letters_come_twice_in_a_row(few: Data) -> None:
    assert any((sample.target[1:] == sample.target[:-1]).any() for sample in few.train)


def test_a_larger_set_begins_with_the_smaller_and_is_validated_on_the_same_clips(few: Data) -> None:
    more = Sentences(train=50, val=20).data()
    for one, other in zip([*few.train, *few.val], [*more.train[:30], *more.val], strict=True):
        assert torch.equal(one.target, other.target)
        assert torch.equal(one.features, other.features)


def test_another_seed_spells_other_sentences(few: Data) -> None:
    other = Sentences(train=30, val=20, seed=1).data()
    assert [spelled(other, sample) for sample in other.train] != [
        spelled(few, sample) for sample in few.train
    ]


def test_the_record_of_a_run_makes_the_same_clips_again() -> None:
    data = Sentences(train=3, val=2, languages=("psr", "gss"), seed=4, label_noise=0.5).data()
    again = data_described_by(data.described)
    assert again.vocabulary == data.vocabulary
    for one, other in zip([*data.train, *data.val], [*again.train, *again.val], strict=True):
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.target, other.target)


def test_label_noise_replaces_its_share_of_training_tokens_and_none_of_validation() -> None:
    plans = Plans(wanted=Sentences(train=300, label_noise=0.3), recordings=tuple(range(26)))
    right, said = (
        [letter for sentence in plans.train for letter in sentence.letters],
        [letter for i in range(300) for letter in plans.labels(i)],
    )
    assert (
        0.25 < np.mean(np.array(right) != said) < 0.33
    )  # a 26th of the replacements is the letter itself
    clean, noisy = (
        Sentences(train=5, val=5).data(),
        Sentences(train=5, val=5, label_noise=1.0).data(),
    )
    assert all(
        torch.equal(one.target, other.target)
        for one, other in zip(clean.val, noisy.val, strict=True)
    )
    assert torch.equal(clean.train[0].features, noisy.train[0].features)


def test_an_altered_training_clip_differs_each_epoch_and_repeats_by_epoch(few: Data) -> None:
    first, again, later = few.altered(0, 3), few.altered(0, 3), few.altered(1, 3)
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.features, later.features)
    assert first.features.shape == few.train[3].features.shape
    assert torch.equal(later.target, few.train[3].target)


def test_a_language_without_recordings_is_one_clear_line() -> None:
    with pytest.raises(
        BadFeatures,
        match=r"^there are no recordings of the sign language 'xyz'; there are ase, asq, ",
    ):
        Sentences(train=1, languages=("ase", "xyz")).data()


# -- augmentation ----------------------------------------------------------------------------------


def test_altered_landmarks_move_a_little_and_leave_the_unseen_unseen() -> None:
    draw = RandomState(0)
    seen = draw.random_sample((20, 543)) < 0.8
    points = np.where(seen[..., None], draw.normal(size=(20, 543, 3)), 0).astype(np.float32)
    clip = altered(Landmarks(points=points, seen=seen), 20, RandomState(1))
    assert clip.points.shape == points.shape
    assert not clip.points[~clip.seen].any()
    still = altered(
        Landmarks(points=np.ones_like(points), seen=np.ones_like(seen)), 20, RandomState(1)
    )
    assert 0 < np.abs(still.points - 1).max() < 0.4


@settings(max_examples=25)
@given(frames=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_altered_features_keep_their_length_and_where_nothing_was_seen_stay_zero(
    frames: int, seed: int
) -> None:
    given_features = torch.randn(frames, 6, generator=torch.Generator().manual_seed(0))
    given_features[:, 2] = 0
    out = altered_features(given_features, RandomState(seed))
    assert out.shape == given_features.shape
    assert out.dtype == given_features.dtype
    assert not out[:, 2].any()
    assert torch.isfinite(out).all()


# -- order and memory ------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    count=st.integers(1, 30),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
    seed=st.none() | st.integers(0, 9),
)
def test_processes_share_the_clips_of_an_epoch(
    count: int, world: int, epoch: int, seed: int | None
) -> None:
    orders = [Order(count, seed=seed, rank=rank, world=world) for rank in range(world)]
    for order in orders:
        order.set_epoch(epoch)
    keys = [list(order) for order in orders]
    assert {len(share) for share in keys} == {len(orders[0])}
    real = [key for order, share in zip(orders, keys, strict=True) for key in share[: order.real]]
    assert sorted(real) == [(epoch, index) for index in range(count)]


def test_batches_of_two_processes_together_are_those_of_one_with_twice_the_batch() -> None:
    alone = list(Order(16, seed=3))
    pair = [list(Order(16, seed=3, rank=rank, world=2)) for rank in range(2)]
    for batch in range(2):
        together = {key for share in pair for key in share[batch * 4 : batch * 4 + 4]}
        assert together == set(alone[batch * 8 : batch * 8 + 8])


def test_each_epoch_has_an_order_of_its_own() -> None:
    order = Order(50, seed=0)
    first = [index for _, index in order]
    order.set_epoch(1)
    assert first != [index for _, index in order]
    order.set_epoch(0)
    assert first == [index for _, index in order]


def test_seeds_of_neighbouring_epochs_differ() -> None:
    assert (
        len(
            {
                seed_of(seed, epoch, rank)
                for seed in range(10)
                for epoch in range(50)
                for rank in range(4)
            }
        )
        == 2000
    )


def test_samples_are_made_once_while_there_is_room_and_anew_beyond() -> None:
    made: list[int] = []

    def make(index: int) -> Sample:
        made.append(index)
        return Sample(name=str(index), features=torch.zeros(10, 10), target=torch.tensor([1]))

    samples = Remembered(3, make, most_bytes=800)  # two of 400 bytes
    for _ in range(2):
        assert [sample.name for sample in samples] == ["0", "1", "2"]
    assert made == [0, 1, 2, 2]
    with pytest.raises(IndexError, match="there are 3 samples, sample 3 was asked for"):
        samples[3]


# -- a corpus of one's own -------------------------------------------------------------------------


def phoenix(folder: Path, split: str, rows: dict[str, str]) -> None:
    """Features below `folder/split`, and their rows in a csv beside it."""
    (folder / split).mkdir(parents=True)
    for number, name in enumerate(rows):
        np.save(folder / split / f"{name}.npy", features(24, seed=number))
    corpus_2014(folder, rows, f"{split}.corpus.csv")


def test_splits_are_told_by_csv_files(tmp_path: Path) -> None:
    phoenix(tmp_path, "train", {"a": "WIND REGEN", "b": "REGEN"})
    phoenix(tmp_path, "dev", {"c": "REGEN SONNE"})
    phoenix(tmp_path, "test", {"d": "NACHT"})
    data = own_data(tmp_path)
    assert [sample.name for sample in data.train] == ["a", "b"]
    assert [sample.name for sample in data.val] == ["c"]
    assert spelled(data, data.train[0]) == ("WIND", "REGEN")
    assert spelled(data, data.val[0]) == ("REGEN", "SONNE")
    assert [sample.name for sample in data_described_by(data.described).val] == ["c"]


def test_splits_are_told_by_folders(tmp_path: Path) -> None:
    for split, rows in (("train", {"a": "WIND REGEN"}), ("val", {"c": "SONNE WIND"})):
        phoenix(tmp_path / split, "clips", rows)
    data = own_data(tmp_path)
    assert data.vocabulary == ("<blank>", "REGEN", "SONNE", "WIND")
    assert spelled(data, data.train[0]) == ("WIND", "REGEN")
    assert spelled(data, data.val[0]) == ("SONNE", "WIND")


def test_an_altered_clip_of_ones_own_keeps_name_and_target(tmp_path: Path) -> None:
    phoenix(tmp_path, "train", {"a": "WIND REGEN"})
    phoenix(tmp_path, "dev", {"c": "REGEN"})
    data = own_data(tmp_path)
    changed = data.altered(2, 0)
    assert changed.name == "a"
    assert torch.equal(changed.target, data.train[0].target)
    assert not torch.equal(changed.features, data.train[0].features)
    assert torch.equal(changed.features, own_data(tmp_path).altered(2, 0).features)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"train": {"a": "WIND"}},
            (
                "{folder}: no splits; put train and dev csv files in it, or folders train and dev, "
                "each with its csv"
            ),
        ),
        (
            {"train": {"a": "WIND"}, "dev": {"b": "__ON__"}},
            "{folder}: the validation split has no clip",
        ),
        (
            {},
            (
                "{folder}: no splits; put train and dev csv files in it, or folders train and dev, "
                "each with its csv"
            ),
        ),
    ],
    ids=["no validation", "empty validation", "nothing"],
)
def test_a_missing_split_is_one_clear_line(
    tmp_path: Path, rows: dict[str, dict[str, str]], message: str
) -> None:
    for split, clips in rows.items():
        phoenix(tmp_path, split, clips)
    with pytest.raises(BadFeatures) as caught:
        own_data(tmp_path)
    assert str(caught.value) == message.format(folder=tmp_path)


def test_a_clip_in_both_splits_is_refused(tmp_path: Path) -> None:
    phoenix(tmp_path, "train", {"a": "WIND", "b": "REGEN"})
    corpus_2014(tmp_path, {"b": "REGEN"}, "dev.corpus.csv")
    with pytest.raises(
        BadFeatures,
        match=r"dev\.corpus\.csv: b is a training clip too \(.*train\.corpus\.csv\); keep it in "
        "one split$",
    ):
        own_data(tmp_path)


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        BadFeatures,
        match=r"nowhere: there is no such folder; give one of features, with train and dev splits$",
    ):
        own_data(tmp_path / "nowhere")
