"""Which of the changes makes it worse: each is put back alone in a copy of our tree, and the rung
climbed again against the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_overfit.against.changes import Change, whole_of
from pytest_overfit.against.checkout import NoOtherSide
from pytest_overfit.against.pairing import Pair, Runner, Way, climb_both
from pytest_overfit.against.sides import SideFailed
from pytest_overfit.against.verdict import PairTest, PairVerdict

MOST_TRIALS = 12
FEW = 6
"""Pieces up to which each is tried by itself at once; of more, whole files come first."""


@dataclass(frozen=True, kw_only=True)
class Guilty:
    """A change that was put back. file, line, within: where it is. verdict: of the rung without it.

    whole: all changes of the file together. why: it could not be tried.
    """

    file: str
    line: int
    within: str
    verdict: PairVerdict | None
    why: str | None = None
    whole: bool = False

    @property
    def confirmed(self) -> bool:
        """Whether the rung is as good without it, or better."""
        return self.verdict in ("as good", "better")

    @property
    def place(self) -> str:
        """ "net.py:12 (Block.forward)", or the file alone where all of it was put back."""
        if self.whole:
            return self.file
        return f"{self.file}:{self.line}" + (f" ({self.within})" if self.within else "")


@dataclass
class Recorded:
    """The other side's course as it was climbed before; it held, or ended with the budget."""

    way: Way
    at: int = 0

    def advance(self, to: int) -> dict[str, Any]:
        """The next piece of it."""
        step, loss, rate = self.way.readings[min(self.at, len(self.way.readings) - 1)]
        self.at += 1
        last = self.at >= len(self.way.readings)
        return {
            "step": step,
            "step_seconds": None,
            "loss": loss,
            "token_error_rate": rate,
            "held": last and self.way.held,
            "ended": self.way.ended if last else None,
        }


def judge(
    pairs: Sequence[Pair],
    test: PairTest,
    budget: int,
    *,
    ratio: float,
    ours: Callable[[int], Runner],
    base: Callable[[int], Runner],
) -> PairVerdict | None:
    """The verdict on another network in our place; None where it is left open. ratio: that was
    found before. ours, base: of a seed.

    `as good` has at most `alpha` to be said of a network that is still as slow as it was: that a
    change is guilty is an accusation too. The seeds that accused come first, whose other side is
    known.
    """
    test = replace(test, below=(), beta=test.alpha, slow=max(ratio, test.tolerance**2))
    known = {pair.seed: pair.base for pair in pairs if pair.base.held}
    first = pairs[0].seed
    seeds = [*known, *(seed for seed in range(first, first + test.most) if seed not in known)]
    again: list[Pair] = []
    for seed in seeds[: test.most]:
        again.append(
            climb_both(
                ours(seed),
                Recorded(known[seed]) if seed in known else base(seed),
                seed=seed,
                budget=budget,
                settled=test.settled(again),
            )
        )
        if (standing := test.standing(again)).decided:
            return standing.verdict
    return None


def search(
    by_file: Sequence[Sequence[Change]], trial: Callable[[Change], PairVerdict | None]
) -> tuple[Guilty, ...]:
    """Put changes back one at a time until the rung is mended, and then the pieces of that file.

    trial: the verdict on the rung without a change. A change that cannot be put back alone, since
    others need it, is told of.
    """
    few = sum(map(len, by_file)) <= FEW
    tried: list[Guilty] = []
    for change in _order(by_file, few=few)[:MOST_TRIALS]:
        tried.append(_tried(change, trial))
        if not tried[-1].confirmed:
            continue
        own = next(own for own in by_file if own[0].file == change.file)
        for piece in own[: MOST_TRIALS - len(tried)] if change.whole and not few else ():
            tried.append(_tried(piece, trial))
            if tried[-1].confirmed:
                break
        break
    return tuple(tried)


def _order(by_file: Sequence[Sequence[Change]], *, few: bool) -> list[Change]:
    """Each piece by itself, then each file's together; of many pieces, files alone."""
    files = [whole_of(own) for own in by_file if len(own) > 1]
    alone = [piece for own in by_file for piece in own if few or len(own) == 1]
    return [*alone, *files]


def _tried(change: Change, trial: Callable[[Change], PairVerdict | None]) -> Guilty:
    known = {
        "file": change.file,
        "line": change.line,
        "within": change.within,
        "whole": change.whole,
    }
    try:
        return Guilty(**known, verdict=trial(change))  # type: ignore[arg-type]
    except (SideFailed, NoOtherSide) as error:
        return Guilty(**known, verdict=None, why=str(error))  # type: ignore[arg-type]
