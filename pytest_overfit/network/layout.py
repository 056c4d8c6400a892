"""Which axis of a module's output counts clips and which counts steps, found without knowing the
network.

The network runs three times in eval mode: on 3 clips of T frames, on 3 clips of another length, and
on 2 of the clips. The axis whose size follows the clips is the clip axis; the axis whose size
follows the length is the step axis; the rest are channels. Where both change one axis, clips and
steps are folded into it, (clips * steps, channels), and which of the two runs faster is read from
the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence

from pytest_overfit.network.recorder import Place, tensors, watched
from pytest_overfit.subject import Batch, Subject

CLIPS, FEWER_CLIPS = 3, 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """clips: the clip axis. steps: the step axis, None where there is none or it is folded into
    `clips`. folded: `clips` holds both.

    each: entries a clip of full length has on the clip axis; 1 unless something is folded into it.
    clips_first: they lie side by side.
    """

    clips: int
    steps: int | None
    each: int = 1
    folded: bool = False
    clips_first: bool = True

    def arrange(self, output: Tensor, frames: Tensor) -> Tensor | None:
        """A module's output as (clips, steps, channels); None where its shape is not that of the
        runs the layout was found on.

        frames: (clips,). Rows of the valid frames alone, as boolean masks leave them, are padded
        again.
        """
        if max(self.clips, self.steps or 0) >= output.ndim:
            return None
        clips, moved = len(frames), output.movedim(self.clips, 0)
        if len(moved) != clips * self.each:
            lengths = (
                _folded_lengths(frames, self.each, len(moved))
                if self.folded and self.clips_first
                else None
            )
            return (
                pad_sequence(list(moved.flatten(1).split(lengths)), batch_first=True)
                if lengths
                else None
            )
        sizes = (clips, self.each) if self.clips_first else (self.each, clips)
        split = moved.reshape(*sizes, *moved.shape[1:])
        split = split if self.clips_first else split.transpose(0, 1)
        if self.folded:
            return split.flatten(2) if split.ndim > 2 else split[..., None]
        if self.steps is None:
            return split.flatten(1)[:, None]
        return split.movedim(1 + self.steps + (self.steps < self.clips), 1).flatten(2)


def _folded_lengths(frames: Tensor, each: int, rows: int) -> list[int] | None:
    """How many of `rows` belong to each clip, where padding was left out and the longest clip has
    `each`.
    """
    exact = frames * each / frames.max()
    for lengths in (exact.ceil(), exact.floor().clamp(min=1), exact.round()):
        if int(lengths.sum()) == rows:
            return [int(length) for length in lengths.tolist()]
    return None


def main_tensor(value: object) -> Tensor | None:
    """The first floating-point tensor of a module's input or output, wherever it is packed."""
    return next(tensors(value), None)


def padded(value: object) -> Tensor | None:
    """`main_tensor` with packed sequences unpacked to (clips, steps, channels), in the order of the
    clips.
    """
    if isinstance(value, tuple) and not isinstance(value, PackedSequence) and value:
        return padded(value[0]) if isinstance(value[0], PackedSequence) else main_tensor(value)
    if isinstance(value, PackedSequence):
        unpacked: Tensor = pad_packed_sequence(value, batch_first=True)[0]
        return unpacked
    return main_tensor(value)


Tensors = dict[Place, list[Tensor | None]]
"""input and output of each call"""


def find_layouts(
    subject: Subject, network: nn.Module, batch: Batch
) -> dict[Place, tuple[Layout | None, Layout | None]]:
    """Layouts of the input and the output of each call.

    The network must be in eval mode; its buffers stay as they are.
    """
    frames, clips = batch.features.shape[1], len(batch)
    full_length = torch.stack([batch.features[i % clips].roll(i, dims=0) for i in range(CLIPS)])
    full = _run(subject, network, full_length)
    fewer = _run(subject, network, full_length[:FEWER_CLIPS])
    half, double = (
        full_length[:, : max(frames // 2, 1)],
        torch.cat([full_length, full_length], dim=1),
    )
    other = _run_if_it_can(subject, network, half) or _run_if_it_can(subject, network, double)
    layouts = {}
    for call in full.keys() & fewer.keys() & (other or full).keys():
        entering, leaving = (
            _layout(full[call][k], other[call][k], fewer[call][k])
            if other
            else _layout_of_one_length(full[call][k], fewer[call][k], frames)
            for k in (0, 1)
        )
        layouts[call] = (entering, _inherited(entering, leaving, full[call]))
    return layouts


def _run_if_it_can(subject: Subject, network: nn.Module, features: Tensor) -> Tensors | None:
    """None where the network takes no such length: half a clip is shorter than a kernel, twice a
    clip longer than a table of places, and some take one length alone.
    """
    try:
        return _run(subject, network, features)
    except Exception:  # whatever the subject's code raises
        return None


def _layout_of_one_length(full: Tensor | None, fewer: Tensor | None, frames: int) -> Layout | None:
    """The layout in a network for one length: steps are taken to be on the axis that has as many
    entries as there are frames, else on none.
    """
    if full is None or fewer is None or full.ndim != fewer.ndim:
        return None
    clips = [axis for axis in range(full.ndim) if full.shape[axis] != fewer.shape[axis]]
    if not clips or (full.shape[clips[0]], fewer.shape[clips[0]]) != (CLIPS, FEWER_CLIPS):
        return None
    rest = [axis for axis in range(full.ndim) if axis != clips[0]]
    return Layout(
        clips=clips[0], steps=next((axis for axis in rest if full.shape[axis] == frames), None)
    )


def _run(subject: Subject, network: nn.Module, features: Tensor) -> Tensors:
    tensors: Tensors = {}

    def enter(call: Place, _: nn.Module, entering: object) -> None:
        tensors[call] = [padded(entering), None]

    def leave(call: Place, _: nn.Module, leaving: object) -> None:
        tensors[call][1] = padded(leaving)

    frames = torch.full((len(features),), features.shape[1], device=features.device)
    with torch.no_grad(), watched(network, leave, enter):
        subject.forward(network, features, frames)
    return tensors


def _layout(full: Tensor | None, other: Tensor | None, fewer: Tensor | None) -> Layout | None:
    if full is None or other is None or fewer is None or not full.ndim == other.ndim == fewer.ndim:
        return None
    follows_clips = [axis for axis in range(full.ndim) if full.shape[axis] != fewer.shape[axis]]
    follows_length = [axis for axis in range(full.ndim) if full.shape[axis] != other.shape[axis]]
    if not follows_clips:
        return None
    clips = follows_clips[0]
    each = full.shape[clips] // CLIPS
    if (full.shape[clips], fewer.shape[clips]) != (each * CLIPS, each * FEWER_CLIPS):
        return None
    folded = clips in follows_length
    steps = None if folded else next(iter(follows_length), None)
    layouts = [
        Layout(clips=clips, steps=steps, each=each, folded=folded, clips_first=first)
        for first in (True, False)
    ]
    return (
        layouts[0] if each == 1 else min(layouts, key=lambda layout: _mismatch(layout, full, fewer))
    )


def _mismatch(layout: Layout, full: Tensor, fewer: Tensor) -> float:
    """How far the first clips of the large run are from the same clips in the small one."""
    many, few = (
        layout.arrange(tensor, torch.ones(clips))
        for tensor, clips in ((full, CLIPS), (fewer, FEWER_CLIPS))
    )
    return (
        float((many[:FEWER_CLIPS] - few).abs().mean())
        if many is not None and few is not None
        else float("inf")
    )


def _inherited(
    entering: Layout | None, leaving: Layout | None, tensors: Sequence[Tensor | None]
) -> Layout | None:
    """The output's layout, with the input's step axis where the output has the input's rank but
    always the same number of steps.
    """
    before, after = tensors
    if (
        entering is None
        or leaving is None
        or before is None
        or after is None
        or before.ndim != after.ndim
        or leaving.folded
    ):
        return leaving
    if leaving.steps is None and entering.clips == leaving.clips:
        return replace(leaving, steps=entering.steps)
    return leaving
