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
    pairs: Sequence[Pair], test: PairTest, budget: int, runner: Callable[[int], Runner]
) -> PairVerdict | None:
    """What the seeds of a comparison say of another network in our place. runner: of a seed.

    None where they decide nothing.
    """
    test = replace(test, most=len(pairs) + 1, below=())
    again: list[Pair] = []
    for pair in pairs:
        if not pair.base.held:
            continue
        again.append(
            climb_both(
                runner(pair.seed),
                Recorded(pair.base),
                seed=pair.seed,
                budget=budget,
                settled=test.settled(again),
            )
        )
        if (standing := test.standing(again)).verdict:
            return standing.verdict
    # Those seeds accused: with the same ones a network within the tolerance is mended.
    ratios = [bounds for pair in again if (bounds := pair.log_ratio)]
    edge = test.edge
    return "as good" if ratios and all(high <= edge for _, high in ratios) else None


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
