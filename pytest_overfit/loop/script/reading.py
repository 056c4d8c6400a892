"""How a script's network is called and read, learned from calls with one clip and itself, where
both rows are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pytest_overfit.loop.script.process import CannotDrive
from pytest_overfit.loop.script.watching import Call, Ctc, copied
from pytest_overfit.subject import Sample

ALIKE, ALIKE_IN_HALF = 1e-3, 0.1
"""Nats by which what the network returned, as log-probabilities, may miss what reached CTC."""


How = int | Literal["joined"] | None
"""Where a tensor has its two clips: the axis of the two, one behind the other, or nowhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A clip seen twice in one batch: what the network was called with, its target (tokens,) and
    the steps that CTC was told of it.
    """

    index: int
    leaves: Sequence[Any]
    shape: Any
    target: Tensor
    steps: int


@dataclass(frozen=True, kw_only=True)
class Output:
    """From what a network returns to log-probabilities (steps, batch, vocabulary). leaf: which of
    its tensors; order: of its axes.

    inside: they are those that the network itself gives to CTC; nothing else counts then.
    """

    leaf: int = 0
    order: tuple[int, ...] = (0, 1, 2)
    softmax: bool = False
    inside: bool = False

    def log_probs(self, returned: Any) -> Tensor:
        """Of what the network returned."""
        tensors = [leaf for leaf in tree_flatten(returned)[0] if isinstance(leaf, Tensor)]
        value = _squeezed(tensors[self.leaf]).float().permute(self.order)
        return value.log_softmax(-1) if self.softmax else value


def clip_of(index: int, call: Call, ctc: Ctc) -> Clip:
    """What was seen of one clip."""
    leaves, shape = tree_flatten((call.args, call.kwargs))
    lengths = ctc.target_lengths.reshape(-1).tolist()
    target = ctc.targets[0, : lengths[0]] if ctc.targets.ndim == 2 else ctc.targets[: lengths[0]]
    return Clip(
        index=index,
        leaves=copied(leaves),
        shape=shape,
        target=target.detach().cpu().long(),
        steps=int(ctc.input_lengths.reshape(-1)[0]),
    )


def output_of(call: Call, ctc: Ctc) -> Output:
    """How what the network returned became what reached CTC.

    Raises CannotDrive where that is not known.
    """
    if ctc.inside:
        return Output(inside=True)
    wanted = ctc.log_probs.detach().float()
    tensors = [leaf.detach() for leaf in tree_flatten(call.output)[0] if isinstance(leaf, Tensor)]
    for place, tensor in enumerate(tensors):
        value = _squeezed(tensor).float()
        if value.ndim != 3:
            continue
        allowed = ALIKE if tensor.dtype == ctc.log_probs.dtype == torch.float32 else ALIKE_IN_HALF
        for order in permutations(range(3)):
            if value.permute(order).shape != wanted.shape:
                continue
            for softmax in (False, True):
                found = Output(leaf=place, order=order, softmax=softmax)
                if float((found.log_probs(tensors) - wanted).abs().nan_to_num(0.0).max()) < allowed:
                    return found
    name = type(call.network).__name__
    raise CannotDrive(
        f"what {name} returns reaches CTC neither as it is nor by log_softmax and a "
        "transposition, so it cannot be read from outside"
    )


def _squeezed(value: Tensor) -> Tensor:
    """Without the axes of one that it has beyond three."""
    while value.ndim > 3 and 1 in value.shape:
        value = value.squeeze(value.shape.index(1))
    return value


class Reading:
    """Calls a network with clips of our choice, in batches of those that can be stacked, and reads
    its log-probabilities.
    """

    def __init__(self, clips: Sequence[Clip], output: Output) -> None:
        self.clips, self.output = clips, output
        self.rows = [_rows(clip.leaves) for clip in clips]
        floating = [
            i
            for i, leaf in enumerate(clips[0].leaves)
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 1
        ]
        mains = [i for i in floating if isinstance(self.rows[0][i], int)]
        if not mains:
            raise CannotDrive("the network is given no tensor of features with a row for each clip")
        self.main = mains[0]
        axis = self.rows[0][self.main]
        assert isinstance(axis, int)
        self.axis = axis
        shapes = [self._row(clip).shape for clip in clips]
        if len({len(shape) for shape in shapes}) > 1:
            raise CannotDrive("the network is given clips of several numbers of axes")
        varying = [
            axis for axis in range(len(shapes[0])) if len({shape[axis] for shape in shapes}) > 1
        ]
        if len(varying) > 1:
            raise CannotDrive(
                f"clips differ in {len(varying)} axes of {tuple(shapes[0])}: one, that of "
                "time, was expected"
            )
        self.time = (
            varying[0] if varying else max(range(len(shapes[0])), key=lambda axis: shapes[0][axis])
        )
        self.samples = [
            Sample(
                name=f"item {clip.index}", features=self.flat(self._row(clip)), target=clip.target
            )
            for clip in clips
        ]
        self._by_content = {
            _key(sample.features): place for place, sample in enumerate(self.samples)
        }
        self._by_frames = {
            sample.frames: place for place, sample in reversed(list(enumerate(self.samples)))
        }

    def _row(self, clip: Clip) -> Tensor:
        leaf: Tensor = clip.leaves[self.main]
        return leaf.select(self.axis, 0)

    def flat(self, row: Tensor) -> Tensor:
        """A row as the network is given it -> (frames, dim)."""
        return row.movedim(self.time, 0).flatten(1) if row.ndim > 1 else row[:, None]

    def rows_of(self, batch: Tensor) -> Tensor:
        """What reached the network -> (batch, frames, dim)."""
        return torch.stack([self.flat(row) for row in batch.unbind(self.axis)])

    def log_probs(
        self, network: nn.Module, features: Tensor, frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features (batch, frames, dim), as of the samples or altered -> log-probabilities (steps,
        batch, vocabulary), steps (batch,).
        """
        cut = [row[:count].cpu() for row, count in zip(features, frames.tolist(), strict=True)]
        places = [self._place(row) for row in cut]
        alike: dict[Any, list[int]] = {}
        for number, place in enumerate(places):
            alike.setdefault(self._alike(number, place), []).append(number)
        outputs: dict[int, Tensor] = {}
        for numbers in alike.values():
            given = self._called(
                network, [cut[number] for number in numbers], [places[number] for number in numbers]
            )
            outputs.update(zip(numbers, given.unbind(1), strict=False))
        steps = torch.tensor(
            [
                min(self.clips[place].steps, len(outputs[number]))
                for number, place in enumerate(places)
            ]
        )
        padded = nn.utils.rnn.pad_sequence([outputs[number] for number in range(len(cut))])
        return padded, steps.to(features.device)

    def _place(self, row: Tensor) -> int:
        """The clip that a row is, or one as long, from which the rest of the call is taken."""
        place = self._by_content.get(_key(row))
        if place is None:
            place = self._by_frames.get(
                len(row),
                min(
                    range(len(self.samples)),
                    key=lambda one: abs(self.samples[one].frames - len(row)),
                ),
            )
        return place

    def _alike(self, number: int, place: int) -> Any:
        """What rows must share to be stacked; a call with numbers or objects is never stacked."""
        leaves = self.clips[place].leaves
        plain = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        if any(not isinstance(leaf, bool | str | None) for leaf in plain):
            return number
        rows = zip(leaves, self.rows[place], strict=True)
        return tuple(tuple(leaf.shape) for leaf, how in rows if isinstance(how, int)), repr(plain)

    def _called(self, network: nn.Module, rows: Sequence[Tensor], places: Sequence[int]) -> Tensor:
        """Log-probabilities (steps, batch, vocabulary) of rows whose calls can be stacked; one is
        given beside itself.
        """
        if len(rows) == 1:
            rows, places = [*rows, *rows], [*places, *places]
        first = self.clips[places[0]]
        device = next(network.parameters()).device
        leaves = []
        for number, leaf in enumerate(first.leaves):
            how = self.rows[places[0]][number]
            if number == self.main:
                leaf = torch.stack(
                    [self._unflat(row, place) for row, place in zip(rows, places, strict=True)],
                    self.axis,
                )
            elif isinstance(how, int):
                leaf = torch.stack(
                    [self.clips[place].leaves[number].select(how, 0) for place in places], how
                )
            elif how == "joined":
                parts = [self.clips[place].leaves[number] for place in places]
                leaf = torch.cat([part[: len(part) // 2] for part in parts])
            leaves.append(leaf.to(device) if isinstance(leaf, Tensor) else leaf)
        args, kwargs = tree_unflatten(leaves, first.shape)
        return self._read(network, args, kwargs)

    def _unflat(self, features: Tensor, place: int) -> Tensor:
        """(frames, dim) -> a row as the network is given it."""
        row = self._row(self.clips[place])
        shape = [len(features), *(size for axis, size in enumerate(row.shape) if axis != self.time)]
        return features.reshape(shape).movedim(0, self.time).to(row.dtype)

    def _read(self, network: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Tensor:
        if not self.output.inside:
            return self.output.log_probs(network(*args, **kwargs))
        seen: list[Tensor] = []
        inner = torch.ctc_loss

        def ctc_loss(log_probs: Tensor, *rest: Any, **named: Any) -> Tensor:
            seen.append(log_probs)
            value: Tensor = inner(log_probs, *rest, **named)
            return value

        with patch.object(torch, "ctc_loss", ctc_loss):
            network(*args, **kwargs)
        return seen[0].float()


def _rows(leaves: Sequence[Any]) -> list[How]:
    """For each leaf of a call with one clip and itself the axis of the two, "joined" where they
    stand one behind the other, else None.
    """
    return [_axis(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves]


def _axis(leaf: Tensor) -> How:
    for axis, size in enumerate(leaf.shape):
        if size == 2 and torch.equal(leaf.select(axis, 0), leaf.select(axis, 1)):
            return axis
    if leaf.is_floating_point() and leaf.ndim > 1 and len(leaf) == 2:
        return 0  # two draws of an augmentation
    half = len(leaf) // 2 if leaf.ndim == 1 else 0
    return "joined" if half and torch.equal(leaf[:half], leaf[half:]) else None


def _key(features: Tensor) -> tuple[Any, ...]:
    return tuple(features.shape), features.detach().float().cpu().numpy().tobytes()
