"""A checkpoint beside a log: measured on real samples, refused in one clear line where it cannot
be.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pytest_overfit.health.checkpoint import CheckpointReading, common_prefix, examine_checkpoint
from pytest_overfit.health.run import BadRun, Facts, Run
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject
from pytest_overfit.training import Reading, Training
from tests.engine.subjects import BiGRU, bigru, clips, subject

SAMPLES = 10


def run_with(path: Path | None, facts: Facts | None = None) -> Run:
    return Run(name="teacher", checkpoint=path, facts=facts or Facts())


@cache
def trained() -> tuple[dict[str, Tensor], Reading]:
    """A BiGRU that has learned its ten clips, and what its own training read of it."""
    training = Training(bigru(), bigru().take(SAMPLES), default_recipe(SAMPLES), seed=0)
    for _ in training.advance(60):
        pass
    return training.network.state_dict(), training.read()


def saved(folder: Path, held: object, name: str = "last.ckpt") -> Path:
    torch.save(held, folder / name)
    return folder / name


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def examined(folder: Path, held: object, subject: Subject | None = None) -> CheckpointReading:
    return examine_checkpoint(run_with(saved(folder, held)), subject or bigru(), samples=SAMPLES)


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": lambda state: state,
    "Lightning": lambda state: {
        "epoch": 12,
        "state_dict": prefixed("network.", state) | {"criterion.weight": torch.ones(3)},
    },
    "data parallel": lambda state: {
        "model_state_dict": prefixed("module.", state),
        "optimizer": {"lr": 0.1},
    },
    "compiled": lambda state: {"model": prefixed("model._orig_mod.", state)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_reads_as_its_training_did(layout: str, tmp_path: Path) -> None:
    state, own = trained()
    found = examined(tmp_path, LAYOUTS[layout](state))
    assert found.reading.loss == pytest.approx(own.loss, rel=1e-5)
    assert found.reading.token_error_rate == own.token_error_rate < 0.2
    assert found.reading.blank_share == own.blank_share
    assert found.samples == SAMPLES
    assert found.epoch == (12 if layout == "Lightning" else None)


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    state, own = trained()
    save_file(prefixed("network.", state), tmp_path / "model.safetensors")
    found = examine_checkpoint(run_with(tmp_path / "model.safetensors"), bigru(), samples=SAMPLES)
    assert found.reading.loss == pytest.approx(own.loss, rel=1e-5)


def test_a_sound_network_is_told_its_level_and_its_modules_and_accused_of_nothing(
    tmp_path: Path,
) -> None:
    found = examined(tmp_path, trained()[0])
    assert found.findings == ()
    assert found.level_match is not None
    assert found.level_match.level.name == "aligned"
    assert [row.module for row in found.table] == [
        "encoder",
        "conv",
        "norm",
        "activation",
        "rnn",
        "head",
    ]
    assert found.reading.emission_ratio == pytest.approx(1, abs=0.2)
    steps = sum((clip.frames + 1) // 2 for clip in clips(SAMPLES))
    assert found.expected_blank_share == pytest.approx(
        1 - sum(len(clip.target) for clip in clips(SAMPLES)) / steps
    )


def test_a_network_that_puts_out_blanks_stands_on_a_high_level_and_emits_nothing(
    tmp_path: Path,
) -> None:
    state = {key: value.clone() for key, value in trained()[0].items()}
    state["head.weight"].mul_(1e-2)
    state["head.bias"].zero_()[0] = 3
    found = examined(tmp_path, state)
    assert found.reading.emission_ratio == 0
    assert found.reading.blank_share == 1
    assert found.level_match is not None
    assert found.level_match.level.name == "blank"


def test_a_layer_that_drowns_the_signal_is_named(tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in trained()[0].items()}
    state["conv.conv.weight"].mul_(1e-9)
    found = examined(tmp_path, state)
    assert [finding.module for finding in found.findings] == ["conv.conv"]


class TwoParts(BiGRU):
    """A second part of the input with an encoder of its own."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim // 2, vocabulary)
        self.other = nn.Sequential(
            nn.Linear(dim // 2, 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, dim // 2)
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        own, other = features.chunk(2, -1)
        return super().forward(own + self.other(other), frames)


def test_a_part_of_the_input_that_nobody_shows_is_no_fault_of_its_encoder(tmp_path: Path) -> None:
    held = [
        replace(
            clip,
            features=torch.cat([clip.features[:, :12], torch.zeros_like(clip.features[:, 12:])], 1),
        )
        for clip in clips(SAMPLES)
    ]
    hidden, shown = subject(TwoParts, "two parts", samples=held), subject(TwoParts, "two parts")
    torch.manual_seed(0)
    network = TwoParts(24, 25)
    with torch.no_grad():
        network.other[0].bias.zero_()
    assert examined(tmp_path, network.state_dict(), hidden).findings == ()
    with torch.no_grad():
        network.other[1].bias.fill_(-100)
    assert [
        finding.name for finding in examined(tmp_path, network.state_dict(), shown).findings
    ] == ["dead_units"]


def test_weights_that_are_not_finite_are_found_and_not_probed(tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in trained()[0].items()}
    state["conv.conv.weight"][0] = torch.nan
    found = examined(tmp_path, state)
    assert [(finding.name, finding.module) for finding in found.findings] == [
        ("weights_not_finite", "conv.conv")
    ]
    assert found.table == ()


def test_the_network_is_built_with_what_the_run_says(tmp_path: Path) -> None:
    subject = replace(
        bigru(),
        build=lambda vocab_size, feature_dim, seed, hidden=48: BiGRU(
            feature_dim, vocab_size, hidden=hidden
        ),
    )
    path = saved(tmp_path, BiGRU(24, 25, hidden=16).state_dict())
    facts = Facts(network={"hidden": 16, "unknown": 3})
    assert examine_checkpoint(run_with(path, facts), subject, samples=2).reading.loss > 0
    with pytest.raises(BadRun, match="of another shape"):
        examine_checkpoint(run_with(path), subject, samples=2)


def test_a_run_of_other_features_or_another_vocabulary_is_refused_before_any_shape_is_compared(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path, trained()[0])
    assert (
        examine_checkpoint(
            run_with(path, Facts(network={"feature_dim": 24}, vocabulary=25)), bigru(), samples=2
        ).samples
        == 2
    )
    with pytest.raises(
        BadRun,
        match=(
            "teacher: it was trained with feature_dim 1629, subject bigru has 24: give the subject "
            "it was trained on"
        ),
    ):
        examine_checkpoint(run_with(path, Facts(network={"feature_dim": 1629})), bigru(), samples=2)
    with pytest.raises(BadRun, match="trained with vocabulary 973, subject bigru has 25"):
        examine_checkpoint(run_with(path, Facts(vocabulary=973)), bigru(), samples=2)


def test_fewer_samples_than_asked_for_are_read_as_they_are(tmp_path: Path) -> None:
    few = replace(bigru(), samples=clips(3))
    assert examine_checkpoint(run_with(saved(tmp_path, trained()[0])), few, samples=20).samples == 3


def test_a_checkpoint_of_another_network_says_how_many_keys_differ_and_the_first_of_each(
    tmp_path: Path,
) -> None:
    state = dict(trained()[0])
    state["head.weight"], state["extra.weight"] = torch.zeros(30, 96), state.pop("head.bias")
    with pytest.raises(BadRun) as caught:
        examined(tmp_path, {"state_dict": prefixed("network.", state)})
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'last.ckpt'} does not fit bigru: 1 of 21 keys missing (first "
        "head.bias), 1 unexpected (first extra.weight), "
        "1 of another shape (first head.weight: (30, 96), here (25, 96)); give the subject, size "
        "and keywords it was trained with"
    )


def test_a_checkpoint_with_no_key_in_common_is_told_without_its_wrapper(tmp_path: Path) -> None:
    with pytest.raises(
        BadRun,
        match=r"21 of 21 keys missing \(first encoder.0.weight\), 2 unexpected \(first "
        r"body.weight\)",
    ):
        examined(
            tmp_path, {"network.body.weight": torch.ones(2), "network.body.bias": torch.ones(2)}
        )


def write_objects(path: Path) -> None:
    torch.save({"state_dict": trained()[0], "hyper_parameters": Namespace(lr=1)}, path)


def write_truncated(path: Path) -> None:
    torch.save(trained()[0], path)
    path.write_bytes(path.read_bytes()[:1000])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "Python objects": (
        write_objects,
        r"holds Python objects \(argparse.Namespace\).*save the weights alone, torch.save",
    ),
    "a whole module": (
        lambda path: torch.save(BiGRU(2, 3), path),
        "holds Python objects .*save the weights alone",
    ),
    "truncated": (write_truncated, "is truncated, or no checkpoint of torch's .1000 bytes."),
    "empty": (
        lambda path: path.write_bytes(b""),
        "is truncated, or no checkpoint of torch's .0 bytes.",
    ),
    "text": (lambda path: path.write_text("Epoch 1"), "is truncated, or no checkpoint"),
    "no weights": (
        lambda path: torch.save({"epoch": 3, "optimizer": {}}, path),
        "no state dict in it, but epoch, optimizer; expected one under",
    ),
    "a list": (lambda path: torch.save([1, 2], path), "no state dict in it, but list"),
    "a folder": (lambda path: path.mkdir(), "it is a folder, give the file in it"),
    "nothing": (lambda path: None, "there is no such file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line_that_names_it(
    kind: str, tmp_path: Path
) -> None:
    write, message = BAD[kind]
    path = tmp_path / "last.ckpt"
    write(path)
    with pytest.raises(BadRun, match=message) as caught:
        examine_checkpoint(run_with(path), bigru(), samples=2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_safetensors_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"xx")
    with pytest.raises(BadRun, match="is truncated"):
        examine_checkpoint(run_with(path), bigru(), samples=2)


def test_a_run_without_a_checkpoint_says_what_to_give() -> None:
    with pytest.raises(BadRun, match="teacher: no checkpoint lies beside its log"):
        examine_checkpoint(run_with(None), bigru(), samples=2)


def test_the_prefix_is_the_one_with_the_most_keys() -> None:
    own = nn.Linear(2, 3).state_dict()
    state = {
        "teacher.weight": torch.ones(1),
        "network.weight": torch.ones(3, 2),
        "network.bias": torch.ones(3),
    }
    assert common_prefix(own, state) == "network."
    assert common_prefix(own, own) == ""
