"""What the climbed courses say: their spread over seeds, false accusations, slow-downs found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from examination.against.networks import NORMS, PLANTED, SOUND_SUBJECTS
from pytest_overfit.against.pairing import Pair, climb_both
from pytest_overfit.against.verdict import PairTest, Standing, scale_of
from pytest_overfit.recipe import default_recipe

Rows = Mapping[tuple[str, int, int], dict[str, Any]]
RUNGS = (1, 2, 5)
CLEAR = 2.0
"""Times the steps that a planted slow-down has to take to count as one: below, a miss is no fault.
"""


@dataclass
class Replayed:
    """A course that was climbed before, as one side of a pair."""

    row: dict[str, Any]
    at: int = 0

    def advance(self, to: int) -> dict[str, Any]:
        step, loss, rate = self.row["readings"][self.at]
        last = self.at == len(self.row["readings"]) - 1
        self.at = min(self.at + 1, len(self.row["readings"]) - 1)
        assert step == to or last, (step, to)
        return {
            "step": to if last and not self.row["held"] else step,
            "step_seconds": None,
            "loss": loss,
            "token_error_rate": rate,
            "held": last and self.row["held"],
            "ended": self.row["ended"] if last else None,
        }


def compared(
    ours: Iterator[dict[str, Any]], base: Iterator[dict[str, Any]], samples: int
) -> tuple[Standing, list[Pair]]:
    """A comparison of courses, each used once. Raises StopIteration where they are used up."""
    test = PairTest(scale=scale_of(samples))
    pairs: list[Pair] = []
    while True:
        pairs.append(
            climb_both(
                Replayed(next(ours)),
                Replayed(next(base)),
                seed=len(pairs),
                budget=default_recipe(samples).budget,
                settled=test.settled(pairs),
            )
        )
        if (standing := test.standing(pairs)).verdict:
            return standing, pairs


def courses(rows: Rows, name: str, samples: int) -> list[dict[str, Any]]:
    """The courses of a network and rung, by seed."""
    return [row for (n, k, _), row in sorted(rows.items()) if (n, k) == (name, samples)]


def steps(row: dict[str, Any]) -> float:
    """Until the criteria held; of one that never did, twice what it took."""
    last: int = row["readings"][-1][0]
    return last if row["held"] else 2 * last


def spread(rows: Rows) -> list[str]:
    """How far the logarithm of the steps lies from that of another seed."""
    lines = []
    for samples in RUNGS:
        apart = []
        failed = total = 0
        for name in SOUND_SUBJECTS:
            own = courses(rows, name, samples)
            total, failed = total + len(own), failed + sum(not row["held"] for row in own)
            held = [math.log(steps(row)) for row in own if row["held"]]
            apart += [abs(a - b) for a, b in zip(held[::2], held[1::2], strict=False)]
        if not apart:
            continue
        ordered = sorted(apart)
        shares = ", ".join(
            f"{share:g} %: {math.exp(ordered[int((len(ordered) - 1) * share / 100)]):.2f}"
            for share in (50, 90, 95, 99)
        )
        lines.append(
            f"rung {samples}: {total} courses, {failed} never held; two seeds apart by a factor "
            f"of at most ({shares}) over {len(apart)} pairs"
        )
    return lines


def sound(rows: Rows) -> list[str]:
    """The same network with other seeds on both sides, and another norm."""
    verdicts: Counter[str] = Counter()
    pairs_used: list[int] = []
    for name in SOUND_SUBJECTS:
        for samples in RUNGS:
            own = courses(rows, name, samples)
            for standing, pairs in _all(iter(own[::2]), iter(own[1::2]), samples):
                verdicts[_word(standing)] += 1
                pairs_used.append(len(pairs))
    lines = [_rate("the same network, other seeds", verdicts, pairs_used)]
    verdicts, pairs_used = Counter(), []
    truly: Counter[str] = Counter()
    for one, other in (*NORMS, *((b, a) for a, b in NORMS)):
        for samples in RUNGS:
            ours, base = courses(rows, one, samples), courses(rows, other, samples)
            if not ours or not base:
                continue
            truth = median(map(steps, ours)) / median(map(steps, base))
            for standing, pairs in _all(iter(ours), iter(base), samples):
                if truth <= PairTest().tolerance:
                    verdicts[_word(standing)] += 1
                    pairs_used.append(len(pairs))
                else:
                    truly[_word(standing)] += 1
    lines.append(_rate("another norm, at most 1.25 times the steps in truth", verdicts, pairs_used))
    lines.append(f"another norm that takes more in truth: {dict(truly)}")
    return lines


def planted(rows: Rows) -> list[str]:
    """The verdicts on each slow-down, and what that cost."""
    lines, found, total = [], 0, 0
    costs: list[float] = []
    for name, (host, _) in PLANTED.items():
        for samples in RUNGS:
            ours, base = courses(rows, name, samples), courses(rows, host, samples)
            if not ours or not base:
                continue
            truth = median(map(steps, ours)) / median(map(steps, base))
            verdicts: Counter[str] = Counter()
            for standing, pairs in _all(iter(ours), iter(base), samples):
                verdicts[_word(standing)] += 1
                if standing.verdict == "worse" and truth >= 4:
                    taken = sum(pair.ours.steps + pair.base.steps for pair in pairs)
                    costs.append(taken / median(map(steps, ours)))
            lines.append(f"{name} ({host}, rung {samples}): {truth:.1f} times; {dict(verdicts)}")
            if truth >= CLEAR:
                found, total = found + verdicts["worse"], total + verdicts.total()
    share = f"{100 * found / total:.0f} %" if total else "none"
    lines.append(f"found of those that take {CLEAR:g} times or more: {found} of {total} ({share})")
    if costs:
        lines.append(
            f"cost of a case of 4 times or more, in climbs of ours: median {median(costs):.2f}, "
            f"most {max(costs):.2f}"
        )
    return lines


def _all(
    ours: Iterator[dict[str, Any]], base: Iterator[dict[str, Any]], samples: int
) -> Iterator[tuple[Standing, list[Pair]]]:
    """Comparisons until there are no courses left."""
    while True:
        try:
            yield compared(ours, base, samples)
        except StopIteration:
            return


def _word(standing: Standing) -> str:
    return (standing.verdict or "open") + ("" if standing.decided else ", not decided")


def _rate(what: str, verdicts: Counter[str], pairs: Sequence[int]) -> str:
    total = verdicts.total()
    if not total:
        return f"{what}: none"
    wrong = verdicts["worse"]
    bound = f", so at most {300 / total:.1f} % with 19 of 20" if not wrong else ""
    return (
        f"{what}: {wrong} of {total} said worse{bound}; {dict(verdicts)}; "
        f"{sum(pairs) / len(pairs):.1f} pairs on average"
    )
