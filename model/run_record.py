"""What a run leaves beside its curves: `run.json`, written before the first epoch, says what is
trained on what, so that others can judge it.

subject_of_run(folder)    the run's network and validation clips as a Subject, to measure its
checkpoints by
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.atomic_files import write_whole
from model.data import Data
from model.i3d import create_i3d_teacher
from model.mobilenet import create_mobilenetv3
from pytest_overfit.ctc import steps_needed
from pytest_overfit.levels import ladder_of_levels
from pytest_overfit.subject import BadSample, Sample, Subject

VERSION = 1
RUN = "run.json"
WEIGHTS = "network."
"""Prefix of the network's weights in a checkpoint's state_dict."""
BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "mobilenetv3": create_mobilenetv3,
    "i3d_teacher": create_i3d_teacher,
}
LENGTHS_AT_ONCE = 16
Measured = tuple[str, int, list[int]]
"""A clip's name, frames and target."""


class BadRunFolder(ValueError):
    """A folder that holds no run, or another one; the message names the file and what to do."""


def subject_for(name: str, data: Data, network: Mapping[str, Any]) -> Subject:
    """The network `name` on the training clips of `data`. network: keywords of its builder."""

    def build(vocab_size: int, feature_dim: int, seed: int, **keywords: Any) -> nn.Module:
        return BUILDERS[name](vocab_size, feature_dim=feature_dim, **keywords)

    return Subject(
        name=name,
        build=build,
        samples=data.train,
        vocabulary=data.vocabulary,
        sizes={"run": dict(network)},
    )


def record(
    subject: Subject, network: nn.Module, data: Data, *, settings: Mapping[str, Any], epochs: int
) -> dict[str, Any]:
    """What run.json says, but for the command. Leaves the network in train mode.

    Raises BadSample where a target does not fit in the steps that the network leaves it.
    """
    clips = {"train": _measured(data.train), "val": _measured(data.val)}
    steps = steps_by_frames(
        subject, network, sorted({frames for split in clips.values() for _, frames, _ in split})
    )
    levels = {
        split: _levels(measured, steps, len(data.vocabulary)) for split, measured in clips.items()
    }
    return {
        "version": VERSION,
        "subject": subject.name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "train_samples": len(data.train),
        "val_samples": len(data.val),
        "vocabulary": len(data.vocabulary),
        "levels": levels,
        "network": dict(subject.size_keywords(None)),
        "epochs": epochs,
        "data": dict(data.described),
        "settings": dict(settings),
    }


def steps_by_frames(subject: Subject, network: nn.Module, lengths: Sequence[int]) -> dict[int, int]:
    """Frames -> steps that the network gives a clip of so many, asked with silent clips; in train
    mode again afterwards.
    """
    network.eval()
    width = subject.take(1)[0].features.shape[1]
    steps: dict[int, int] = {}
    with torch.no_grad():
        for some in (
            lengths[start : start + LENGTHS_AT_ONCE]
            for start in range(0, len(lengths), LENGTHS_AT_ONCE)
        ):
            _, given = subject.log_probs(
                network, torch.zeros(len(some), max(some), width), torch.tensor(some)
            )
            steps.update(zip(some, given.tolist(), strict=True))
    network.train()
    return steps


def _measured(clips: Sequence[Sample]) -> list[Measured]:
    """Each clip read once."""
    return [(sample.name, sample.frames, sample.target.tolist()) for sample in clips]


def _levels(
    clips: Sequence[Measured], steps: Mapping[int, int], vocabulary: int
) -> list[dict[str, Any]]:
    for name, frames, target in clips:
        if steps_needed(target) > steps[frames]:
            raise BadSample(
                f"sample {name}: {frames} frames leave {steps[frames]} steps, its target needs "
                f"{steps_needed(target)}: leave it out"
            )
    given, targets = [steps[frames] for _, frames, _ in clips], [target for _, _, target in clips]
    return [
        asdict(level)
        for level in ladder_of_levels(targets=targets, steps=given, vocabulary=vocabulary)
    ]


def write_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Write what a run is, as run.json in its folder, whole or not at all."""
    write_whole(folder / RUN, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """What a run's run.json says. Raises BadRunFolder where there is none or it cannot be read."""
    path = folder / RUN
    if not path.is_file():
        raise BadRunFolder(
            f"{path}: there is no such file; give the --output_dir of a run of python -m "
            "model.train"
        )
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        complete = (
            known["version"] == VERSION
            and {"subject", "network", "data", "settings"} <= known.keys()
        )
    except (ValueError, TypeError, KeyError) as error:
        raise BadRunFolder(f"{path}: not the record of a run ({error!r})") from error
    if not complete:
        raise BadRunFolder(f"{path}: a record of another version than {VERSION}; train anew")
    return dict(known)


def subject_of_run(folder: Path | str) -> Subject:
    """The network of the run in `folder` on its validation clips. A checkpoint's `state_dict` fits
    it without the prefix `network.`.

    Raises BadRunFolder, or BadFeatures where its corpus is not there any more.
    """
    known = read_record(Path(folder))
    data = data_described_by(known["data"])
    return replace(subject_for(known["subject"], data, known["network"]), samples=data.val)


def data_described_by(described: Mapping[str, Any]) -> Data:
    """The data of a run.json, made again."""
    from model.own_corpus import own_data
    from model.sentences import Sentences

    return (
        own_data(Path(described["features"]))
        if described["kind"] == "features"
        else Sentences.described_by(described).data()
    )
