"""Subjects, samples and batches: what is taken in, what is turned away and with which words."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pytest_overfit import Sample, Subject
from pytest_overfit.subject import BadSample, BadSubject, TooFewSamples, all_parameters, collate

VOCABULARY = ("<blank>", "A", "B", "C")


def sample(name="s", *, frames=6, dim=3, target=(1, 2)):
    return Sample(
        name=name, features=torch.ones(frames, dim), target=torch.tensor(target, dtype=torch.int64)
    )


def subject(samples=(), **changes):
    fields = {
        "name": "toy",
        "build": lambda vocab_size, feature_dim, seed: nn.Linear(feature_dim, vocab_size),
        "vocabulary": VOCABULARY,
    }
    return Subject(**{**fields, "samples": samples, **changes})


@pytest.mark.parametrize(
    ("features", "target", "words"),
    [
        (
            torch.ones(3),
            torch.tensor([1]),
            r"sample s: features must be a float tensor \(frames, dim\), got torch.float32 \(3,\)",
        ),
        (
            torch.ones(3, 2, dtype=torch.int64),
            torch.tensor([1]),
            "sample s: features must be a float tensor .* got torch.int64",
        ),
        (
            torch.ones(3, 2).tolist(),
            torch.tensor([1]),
            "sample s: features must be a float tensor .* got list",
        ),
        (
            torch.ones(3, 2),
            torch.tensor([1.0]),
            r"sample s: target must be an integer tensor \(tokens,\), got torch.float32",
        ),
        (torch.ones(3, 2), torch.tensor([[1]]), "sample s: target must be an integer tensor"),
        (torch.ones(3, 2), [1, 2], "sample s: target must be an integer tensor .* got list"),
    ],
)
def test_a_sample_of_another_kind_is_turned_away_by_name_and_field(features, target, words):
    with pytest.raises(BadSample, match=words):
        Sample(name="s", features=features, target=target)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (sample("s07", target=()), "sample s07: its target is empty"),
        (
            sample("s07", target=(1, 0, 2)),
            r"sample s07: its target holds the blank \(0\) at position 1",
        ),
        (sample("s07", target=(1, 4)), "sample s07: label 4 is outside the vocabulary of 4"),
        (sample("s07", target=(1, -1)), "sample s07: label -1 is outside the vocabulary of 4"),
    ],
)
def test_a_target_that_cannot_be_trained_on_is_named(bad, words):
    with pytest.raises(BadSample, match=words):
        subject([sample(), bad]).take(2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_named_with_frame_and_column(value):
    bad = sample("s07")
    bad.features[4, 2] = value
    with pytest.raises(
        BadSample, match="sample s07: features are not finite, first at frame 4, column 2"
    ):
        subject([bad]).take(1)


def test_a_bad_sample_beyond_the_rung_does_not_concern_it():
    assert len(subject([sample(), sample(target=())]).take(1)) == 1


def test_more_samples_than_there_are_cannot_be_taken():
    with pytest.raises(
        TooFewSamples, match="subject toy has 2 samples, a rung of 5 was asked for"
    ) as caught:
        subject([sample(), sample()]).take(5)
    assert caught.value.available == 2


def test_a_subject_without_samples_contradicts_itself():
    with pytest.raises(BadSubject, match=r"^subject toy has no samples$"):
        subject([]).take(1)


def test_samples_can_be_made_on_demand_and_only_as_many_as_asked_for():
    asked = []

    def make(n):
        asked.append(n)
        return [sample(str(i)) for i in range(n + 1)]

    assert [s.name for s in subject(make).take(2)] == ["0", "1"]
    assert asked == [2]


def test_the_blank_may_be_any_id_and_is_checked_where_it_is():
    with pytest.raises(BadSample, match=r"holds the blank \(3\) at position 1"):
        subject([sample(target=(0, 3))], blank=3).take(1)
    assert subject([sample(target=(0, 1))], blank=3).take(1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blank": 4}, "subject toy: blank 4 is outside its vocabulary of 4"),
        ({"blank": -1}, "subject toy: blank -1 is outside"),
        ({"outputs": "probs"}, "subject toy: outputs must be 'log_probs' or 'logits', got 'probs'"),
        ({"layout": "BVT"}, "subject toy: layout must be 'TBV' or 'BTV', got 'BVT'"),
    ],
)
def test_a_description_that_contradicts_itself_is_turned_away(changes, words):
    with pytest.raises(BadSubject, match=words):
        subject(**changes)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=5))
def test_a_batch_keeps_every_clip_and_pads_with_what_no_loss_accepts(sizes):
    clips = [
        Sample(name=str(i), features=torch.randn(frames, 2), target=torch.arange(1, tokens + 1))
        for i, (frames, tokens) in enumerate(sizes)
    ]
    batch = collate(clips)
    assert len(batch) == len(clips)
    assert batch.target_lists() == [clip.target.tolist() for clip in clips]
    for row, clip in enumerate(clips):
        assert torch.equal(batch.features[row, : clip.frames], clip.features)
        assert not batch.features[row, clip.frames :].any()
        assert (batch.targets[row, len(clip.target) :] == -1).all()
    assert batch.frames.tolist() == [clip.frames for clip in clips]
    assert batch.frames.dtype == batch.targets.dtype == torch.int64


def test_two_feature_widths_do_not_make_a_batch():
    with pytest.raises(BadSample, match="sample b has features 4 wide, a has 3"):
        collate([sample("a"), sample("b", dim=4)])


def test_a_build_is_given_only_the_keywords_that_it_takes():
    given_to = {}

    def build(vocab_size, feature_dim, seed, hidden_dim=8):
        given_to.update(
            vocab_size=vocab_size, feature_dim=feature_dim, seed=seed, hidden_dim=hidden_dim
        )
        return nn.Linear(1, 1)

    subject(build=build).fresh(feature_dim=3, seed=7, network={"hidden_dim": 32, "dropout": 0.5})
    assert given_to == {"vocab_size": 4, "feature_dim": 3, "seed": 7, "hidden_dim": 32}
    assert subject(build=lambda **keywords: keywords).accepted({"dropout": 0.5}) == {"dropout": 0.5}


def test_a_recipes_keywords_win_over_those_of_the_size():
    sized = subject(
        build=lambda hidden_dim, **_: nn.Linear(1, hidden_dim),
        sizes={"small": {"hidden_dim": 2}, "full": {"hidden_dim": 9}},
    )
    width = lambda **keywords: sized.fresh(feature_dim=1, seed=0, **keywords).out_features  # noqa: E731
    assert width() == 2
    assert width(size="full") == 9
    assert width(size="full", network={"hidden_dim": 5}) == 5


def test_an_unknown_size_is_turned_away_with_those_there_are():
    with pytest.raises(BadSubject, match="subject toy has no size 'big'; it has small, full"):
        subject(sizes={"small": {}, "full": {}}).fresh(feature_dim=1, seed=0, size="big")
    with pytest.raises(BadSubject, match="it has none"):
        subject().fresh(feature_dim=1, seed=0, size="big")


def test_the_same_seed_builds_the_same_network_and_another_seed_another():
    first, again, other = (subject().fresh(feature_dim=3, seed=seed).weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_parameters_that_require_a_gradient_are_trained():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].weight.requires_grad_(False)
    assert [name for name, _ in all_parameters(network)] == ["0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize("layout", ["TBV", "BTV"])
@pytest.mark.parametrize("outputs", ["log_probs", "logits"])
def test_every_layout_and_kind_of_output_is_read_as_the_same_log_probabilities(layout, outputs):
    logits = torch.randn(5, 2, 4)
    given_out = logits.log_softmax(-1) if outputs == "log_probs" else logits
    described = subject(
        outputs=outputs,
        layout=layout,
        forward=lambda network, x, frames: (
            given_out.transpose(0, 1) if layout == "BTV" else given_out,
            frames,
        ),
    )
    log_probs, _ = described.log_probs(nn.Identity(), torch.zeros(2, 5, 3), torch.tensor([5, 5]))
    assert torch.allclose(log_probs, logits.log_softmax(-1))


def test_features_come_in_the_precision_of_a_network_that_has_one():
    seen = []

    def forward(network, features, frames):
        seen.append(features.dtype)
        return network(features).log_softmax(-1).transpose(0, 1), frames

    mixed = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4).double())
    for network in (nn.Linear(3, 4).double(), nn.Linear(3, 4).bfloat16(), mixed[:1], nn.Identity()):
        features = torch.zeros(1, 5, 3 if list(network.parameters()) else 4)
        subject(forward=forward).log_probs(network, features, torch.tensor([5]))
    with pytest.raises(RuntimeError, match="same dtype"):  # which of them is not ours to guess
        subject(forward=forward).log_probs(mixed, torch.zeros(1, 5, 3), torch.tensor([5]))
    assert seen == [torch.float64, torch.bfloat16, torch.float32, torch.float32, torch.float32]


def test_an_output_in_another_layout_is_turned_away_with_both_shapes():
    wrong = subject(forward=lambda network, x, frames: (torch.zeros(2, 5, 4), frames))
    with pytest.raises(
        BadSubject,
        match=r"subject toy: forward gave \(2, 5, 4\), expected \(steps, 2, 4\) after reading its "
        "layout as TBV",
    ):
        wrong.log_probs(nn.Identity(), torch.zeros(2, 5, 3), torch.tensor([5, 5]))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (
            torch.zeros(5, 2, 4),
            r"forward must return output and steps, got torch.float32 \(5, 2, 4\)",
        ),
        (
            (torch.zeros(5, 2, 4), [5.0, 5.0]),
            "steps must be an integer tensor of 2, got torch.float32",
        ),
        (
            (torch.zeros(5, 2, 4), torch.tensor([5.0, 5.0])),
            "steps must be an integer tensor of 2, got torch.float32",
        ),
        ((torch.zeros(5, 2, 4), torch.tensor([5])), "steps must be an integer tensor of 2"),
        ({"logits": 1, "steps": 2}, "forward must return output and steps, got dict"),
    ],
)
def test_what_a_forward_returns_besides_is_checked_too(returned, words):
    wrong = subject(forward=lambda network, x, frames: returned)
    with pytest.raises(BadSubject, match=f"subject toy: {words}"):
        wrong.log_probs(nn.Identity(), torch.zeros(2, 5, 3), torch.tensor([5, 5]))
