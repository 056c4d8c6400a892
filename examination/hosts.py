"""Hosts: healthy networks that faults are planted in, and where in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pytest_overfit.subject import Sample, Subject
from tests.engine.subjects import bigru

SAMPLES = 10


@dataclass(frozen=True, kw_only=True)
class Host:
    """A healthy subject and its sites, as dotted names.

    middle: takes and returns (batch, frames, width), all of the signal passes through it, and a
    ReLU stands right before or in it. norm: has a bias before a ReLU; relu: that ReLU. weights: a
    layer in the middle. reader: what reads `middle`. strided: a convolution that strides; strides:
    with which no target fits, and some do. part: an encoder of a part of the input. steps: frames
    -> steps.
    """

    name: str
    make: Callable[[], Subject]
    width: int
    middle: str
    norm: str
    relu: str
    weights: str
    reader: str
    strided: str
    strides: tuple[int, int]
    head: str
    part: str
    steps: Callable[[torch.Tensor], torch.Tensor]


def _quarter(frames: torch.Tensor) -> torch.Tensor:
    return ((frames + 1) // 2 + 1) // 2


def _mobilenetv3() -> Subject:
    from model.subjects import mobilenetv3

    return mobilenetv3()


def _i3d_teacher() -> Subject:
    from model.subjects import i3d_teacher

    return i3d_teacher()


HOSTS = {
    host.name: host
    for host in (
        Host(
            name="bigru",
            make=bigru,
            width=48,
            middle="encoder.3",
            norm="encoder.1",
            relu="encoder.2",
            weights="conv.conv",
            reader="conv.conv",
            strided="conv.conv",
            strides=(40, 9),
            head="head",
            part="",
            steps=lambda frames: (frames + 1) // 2,
        ),
        Host(
            name="mobilenetv3",
            make=_mobilenetv3,
            width=128,
            middle="temporal_proj.activation",
            norm="temporal_proj.norm",
            relu="temporal_proj.activation",
            weights="temporal_proj.linear",
            reader="lstm",
            strided="stem.conv",
            strides=(88, 44),
            head="output_proj",
            part="left_hand_encoder",
            steps=lambda frames: frames,
        ),
        Host(
            name="i3d_teacher",
            make=_i3d_teacher,
            width=181,
            middle="fusion.joint.activation",
            norm="fusion.joint.norm",
            relu="fusion.joint.activation",
            weights="fusion.joint.linear",
            reader="stem.0.conv",
            strided="stem.0.conv",
            strides=(20, 16),
            head="output_proj",
            part="fusion.left_hand_encoder",
            steps=_quarter,
        ),
    )
}


def export_clips(path: Path, count: int) -> None:
    """Write the first `count` clips of the repository's corpus to an .npz file, for machines that
    lack the recordings.
    """
    import numpy as np
    from torch.nn.utils.rnn import pad_sequence

    from fixtures import default_samples, default_vocabulary

    samples = list(default_samples(count)[:count])
    np.savez_compressed(
        path,
        names=np.array([sample.name for sample in samples]),
        features=pad_sequence([sample.features for sample in samples], batch_first=True)
        .half()
        .numpy(),
        frames=np.array([sample.frames for sample in samples]),
        targets=pad_sequence(
            [sample.target for sample in samples], batch_first=True, padding_value=-1
        ).numpy(),
        vocabulary=np.array(default_vocabulary()),
    )


def import_clips(path: Path) -> tuple[list[Sample], tuple[str, ...]]:
    """Samples and vocabulary of an exported file."""
    import numpy as np

    with np.load(path) as stored:
        rows = zip(
            stored["names"].tolist(),
            stored["features"],
            stored["frames"].tolist(),
            stored["targets"],
            strict=True,
        )
        samples = [
            Sample(
                name=name,
                features=torch.from_numpy(features[:frames]).float(),
                target=torch.from_numpy(target[target >= 0]).long(),
            )
            for name, features, frames, target in rows
        ]
        return samples, tuple(stored["vocabulary"].tolist())


def host_subject(host: Host, clips: Path | None = None) -> Subject:
    """The healthy subject with few enough samples to be planted in quickly.

    clips: an exported file in the place of the recordings.
    """
    if clips is not None and host.name != "bigru":
        import model.subjects

        samples, vocabulary = import_clips(clips)
        model.subjects.default_vocabulary = lambda: vocabulary  # type: ignore[assignment]
        return replace(host.make(), samples=samples, variants={})
    subject = host.make()
    return replace(
        subject,
        variants={},  # of a build that a fault puts another in the place of
        samples=subject.take(SAMPLES)
        if callable(subject.samples)
        else list(subject.samples)[:SAMPLES],
    )


def raw(subject: Subject, count: int = SAMPLES) -> Sequence[Sample]:
    return (subject.samples(count) if callable(subject.samples) else subject.samples)[:count]
