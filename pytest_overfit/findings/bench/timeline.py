"""How many steps a network leaves at each of its modules, for a clip of so many frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pytest_overfit.findings.bench import Bench
from pytest_overfit.network.recorder import Call, Place, replayed, tensors, time_axis, watched

FEW_LENGTHS = 24
"""Up to so many distinct lengths each is run; more are predicted by a rule."""
WINDOW = 33
"""Neighbouring lengths a rule is fitted on: it finds strides up to half of them."""
SAMENESS = 1e-4
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Time lengths of one clip on its way through the network.

    declared: steps the network says it gives. given: steps of its output. modules: call number ->
    time length of its output, for calls whose output grows with the clip.
    """

    declared: int
    given: int
    modules: dict[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Passage:
    """Steps of one clip, declared and given, and for each call its module and its first output,
    without numbers.
    """

    declared: int
    given: int
    calls: tuple[tuple[str, Tensor | None], ...]


@dataclass(kw_only=True, eq=False)
class Clock:
    """Reads timelines off a network, one run a length; no sample's features matter to them."""

    bench: Bench
    read: dict[int, Timeline] = field(default_factory=dict)
    axes: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = max(self.bench.clips[0].frames, 2)
        longer = self._passage(frames)
        length = self._shorter(frames)
        found = {
            i: time_axis(a, b)
            for i, ((_, a), (_, b)) in enumerate(
                zip(longer.calls, self._passage(length).calls if length else (), strict=False)
            )
            if a is not None and b is not None
        }
        self.axes = {i: axis for i, axis in found.items() if axis is not None}
        self.names = [module for module, _ in longer.calls]

    def shorter(self, frames: int) -> list[Call]:
        """The calls on a much shorter clip, which tell time from other axes; none where the network
        takes no shorter one.
        """
        length = self._shorter(frames)
        return self.bench.passage(self.bench.clip(length))[0] if length else []

    def _shorter(self, frames: int) -> int | None:
        lengths = (frames // 3, frames * 2 // 3)
        return next((length for length in lengths if length and self.bench.takes(length)), None)

    def _passage(self, frames: int) -> Passage:
        """A clip's way through the network, of which no number is kept: copying them takes as long
        as making them.
        """
        calls: list[tuple[str, Tensor | None]] = []

        def leave(place: Place, _: nn.Module, leaving: object) -> None:
            output = next(tensors(leaving), None)
            shape = None if output is None else torch.empty(output.shape, device="meta")
            calls.append((place[0], shape))

        with watched(self.bench.network, leave):
            log_probs, steps = self.bench.alone(self.bench.clip(frames))
        return Passage(declared=int(steps[0]), given=len(log_probs), calls=tuple(calls))

    def __call__(self, frames: int) -> Timeline:
        if frames not in self.read:
            passage = self._passage(frames)
            outputs = [output for _, output in passage.calls]
            self.read[frames] = Timeline(
                declared=passage.declared,
                given=passage.given,
                modules={
                    i: output.shape[axis]
                    for i, axis in self.axes.items()
                    if i < len(outputs) and (output := outputs[i]) is not None
                },
            )
        return self.read[frames]

    def lengths(self, frames: Iterable[int], what: Callable[[Timeline], int]) -> dict[int, int]:
        """`what` for every number of frames; read where they are few, else by the rule that fits a
        window and the longest clip.
        """
        wanted = sorted(set(frames))
        if len(wanted) <= FEW_LENGTHS:
            return {length: what(self(length)) for length in wanted}
        window = {length: what(self(length)) for length in range(wanted[0], wanted[0] + WINDOW)}
        rule = staircase(window)
        if rule is None or rule(wanted[-1]) != what(self(wanted[-1])):
            return {length: what(self(length)) for length in wanted}
        return {length: rule(length) for length in wanted}

    def nth(self, index: int) -> int:
        """How many earlier calls the module of call `index` had."""
        return self.names[:index].count(self.names[index])


def staircase(window: dict[int, int]) -> Callable[[int], int] | None:
    """The rule u * floor((frames + a) / k) + c behind lengths at neighbouring frames, as strides
    and upsampling make it; None where none fits.
    """
    first, last = min(window), max(window)
    for period in range(1, (last - first) // 2 + 1):
        rises = {
            window[frames + period] - window[frames] for frames in range(first, last - period + 1)
        }
        if len(rises) == 1:
            rise = rises.pop()
            return lambda frames: (
                window[first + (frames - first) % period] + rise * ((frames - first) // period)
            )
    return None


def is_cut(bench: Bench, call: Call, nth: int, features: Tensor) -> bool:
    """Whether all that the output knows of the input passes through this call: replayed for another
    clip, it brings back the first output.

    features: (frames, dim), those that `call` was recorded on in eval mode.
    """
    generator = torch.Generator().manual_seed(bench.seed)
    other = features.flip(0) + features.std() * torch.randn(features.shape, generator=generator)
    first, _ = bench.alone(features)
    second, _ = bench.alone(other)
    with replayed(bench.network, call, nth):
        replay, _ = bench.alone(other)
    apart = (second - first).abs().max()
    return bool((replay - first).abs().max() <= SAMENESS * apart)


def is_drawn(sequence: Tensor, steps: int, *, size: float = 0.0) -> bool:
    """Whether a sequence only has `steps` steps of its own, the others being repeated or drawn on
    straight lines between them.

    sequence: (steps, channels), longer than `steps`. size: of the numbers it was rounded at, where
    that is more than its own.
    Nearest-neighbour interpolation jumps at most `steps` times, linear interpolation by 3 or more
    bends at most twice as often; a sequence that was computed does so at nearly every step. Nine in
    ten of the channels that vary must agree, so that a few dead ones prove nothing.
    """
    rows = sequence.double()
    rounding = ROUNDING * rows.abs().amax(0).clamp(min=size)
    rows, rounding = (tensor[..., rows.std(0) > 100 * rounding] for tensor in (rows, rounding))
    if len(rows) < 4 or rows.shape[1] == 0:
        return False
    floor = 1e-3 * rows.std(0) + rounding
    jumps = ((rows[1:] - rows[:-1]).abs() > floor).sum(0).double().quantile(0.9)
    bends = ((rows[2:] - 2 * rows[1:-1] + rows[:-2]).abs() > floor).sum(0).double().quantile(0.9)
    return bool(jumps <= steps) or (len(rows) >= 2.5 * steps and bool(bends <= 2 * steps))
