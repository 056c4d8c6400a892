"""Where on its way through a network the place of a change in time is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pytest_overfit.findings.bench import Bench
from pytest_overfit.network.recorder import Place, tensors, time_axis, watched
from pytest_overfit.network.source import calling_line

MOVING = {
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim"),
    *("T", "mT", "flip", "roll", "expand", "repeat", "gather", "index_select", "sort", "getitem"),
    *("mean", "sum", "amax", "max", "cumsum", "einsum", "matmul"),
}
"""Functions that may put what belongs to one time somewhere else, or mix it with others."""


@dataclass(frozen=True, kw_only=True)
class LostPlace:
    """module: the innermost whose code loses the place, None for what runs outside all of them.

    after, before: the modules between which it is lost there, None at that code's beginning and
    end. moved_by: `function (file:line)` of what moves numbers there.
    """

    module: str | None
    after: str | None
    before: str | None
    moved_by: tuple[str, ...]

    def __str__(self) -> str:
        named = (("after", self.after), ("before", self.before))
        sides = " and ".join(f"{side} {module}" for side, module in named if module)
        return f"in {self.module} {sides}".rstrip() if self.module else sides


@dataclass(frozen=True, kw_only=True, eq=False)
class _Station:
    """What enters or leaves a module. open: the modules under way from here on, outermost first.

    moved_by: what moved numbers since the station before.
    """

    module: str
    enters: bool
    open: tuple[str, ...]
    tensor: Tensor | None
    moved_by: tuple[str, ...]


class _Moves(TorchFunctionMode):
    """Notes each function that may move numbers, with the line that calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "__name__", func)).strip("_")
        if name == "get":  # of a property, as `.T`
            name = str(getattr(getattr(func, "__self__", None), "__name__", name))
        if name in MOVING and (line := calling_line()) is not None:
            self.noted[f"{name} ({line})"] = None
        return func(*args, **(kwargs or {}))

    def taken(self) -> tuple[str, ...]:
        """What was noted since it was last asked."""
        noted, self.noted = tuple(self.noted), {}
        return noted


def where_lost(
    bench: Bench, features: Tensor, changes: Sequence[Tensor], follows: Callable[[Tensor], bool]
) -> LostPlace | None:
    """Where a change's place is still followed, and then nowhere behind; None where nothing tells.

    features: (frames, dim). changes: the same clip changed at one place after another. follows:
    tells it of (changes, steps), how far each step answers to each change.
    """
    clean, shorter = (
        _stations(bench, clip) for clip in (features, features[: len(features) * 3 // 4])
    )
    if [one.module for one in clean] != [one.module for one in shorter]:
        return None
    axes = [_axes(one.tensor, other.tensor) for one, other in zip(clean, shorter, strict=True)]
    answers: dict[tuple[int, int], list[Tensor]] = {
        (index, axis): [] for index, mine in enumerate(axes) for axis in mine
    }
    for changed in changes:
        changed_stations = _stations(bench, changed)
        for (index, axis), rows in answers.items():
            one = clean[index].tensor
            other = changed_stations[index].tensor if index < len(changed_stations) else None
            if one is not None and other is not None and one.shape == other.shape:
                moved = (other - one).double().square()
                rows.append(moved.movedim(axis, 0).flatten(1).sum(1).sqrt())
    known = [
        (
            index,
            any(
                len(rows := answers[index, axis]) == len(changes) and follows(torch.stack(rows))
                for axis in mine
            ),
        )
        for index, mine in enumerate(axes)
        if mine
    ]
    last = max((index for index, followed in known if followed), default=None)
    lost = next((index for index, _ in known if last is not None and index > last), None)
    if last is None or lost is None:
        return None
    if len(axes[last]) > 1 and last and clean[last].enters and lost == last + 1:
        # It enters along an axis that this layer mixes: what put it there stands before.
        return _between(clean, last - 1, last)
    return _between(clean, last, lost)


def _axes(longer: Tensor | None, shorter: Tensor | None) -> tuple[int, ...]:
    """The axis that grows with the clip; where none does, as in a network for one length, all of
    them.
    """
    if longer is None or shorter is None or longer.ndim != shorter.ndim or longer.ndim < 2:
        return ()
    grows = time_axis(longer, shorter)
    return tuple(range(longer.ndim)) if grows is None else (grows,)


def _between(stations: Sequence[_Station], last: int, lost: int) -> LostPlace:
    """last: the station whose tensor still has the place. lost: the next one that tells."""
    passed = stations[last:lost]
    around = min((one.open for one in passed), key=len)
    before, after = stations[last], stations[lost]
    return LostPlace(
        module=around[-1] if around else None,
        after=before.module if not before.enters else None,
        before=after.module if after.enters else None,
        moved_by=tuple(
            dict.fromkeys(line for one in stations[last + 1 : lost + 1] for line in one.moved_by)
        ),
    )


def _stations(bench: Bench, features: Tensor) -> list[_Station]:
    """What a clip, alone and in eval mode, becomes on its way, from the features to the output."""
    moves = _Moves()
    under_way: list[str] = []
    found: list[_Station] = []

    def note(module: str, enters: bool, value: object) -> None:
        tensor = next(tensors(value), None)
        found.append(
            _Station(
                module=module,
                enters=enters,
                open=tuple(under_way),
                tensor=None if tensor is None else tensor.detach().clone(),
                moved_by=moves.taken(),
            )
        )

    def enter(place: Place, _: nn.Module, entering: object) -> None:
        under_way.append(place[0])
        note(place[0], True, entering)

    def leave(place: Place, _: nn.Module, leaving: object) -> None:
        under_way.pop()
        note(place[0], False, leaving)

    note("", True, features[None])
    with watched(bench.network, leave, enter), moves:
        log_probs, _ = bench.alone(features)
    note("", False, log_probs)
    return found
