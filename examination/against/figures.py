"""What the climbed courses say: their spread over seeds, false accusations, slow-downs found."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from statistics import median
from typing import Any

from examination.against.networks import NORMS, PLANTED, SOUND_SUBJECTS
from pytest_overfit.against.pairing import Pair, Way, climb_both
from pytest_overfit.against.verdict import Bounds, PairTest, Standing, clipped, scale_of
from pytest_overfit.recipe import default_recipe

Rows = Mapping[tuple[str, int, int], dict[str, Any]]
Courses = Mapping[int, Iterator[dict[str, Any]]]
"""Of one network, by the rung."""
RUNGS = (1, 2, 5)
DRAWS = 40
"""Ladders that are drawn of each planted slow-down."""
SLOWED = {PairTest().tolerance: 40, 1.4: 10, 1.5: 10, 1.7: 10, 2.0: 10}
"""Times the steps -> ladders that are drawn of each sound network."""
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


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A rung of a ladder that was compared."""

    samples: int
    standing: Standing
    pairs: tuple[Pair, ...]

    @property
    def word(self) -> str:
        """Its verdict."""
        undecided = "" if self.standing.decided else ", not decided"
        return (self.standing.verdict or "open") + undecided

    @property
    def climbs(self) -> int:
        """Steps that both sides took."""
        return sum(pair.ours.steps + pair.base.steps for pair in self.pairs)


def compared(
    ours: Courses, base: Courses, rungs: Sequence[int] = RUNGS, *, slower: float = 1.0
) -> list[Compared]:
    """A ladder compared, rung by rung. slower: times the steps that each course of ours is taken to
    need. Raises StopIteration where a rung's courses are used up.
    """
    done: list[Compared] = []
    for samples in rungs:
        below = tuple((scale_of(one.samples), _bounds(one.pairs)) for one in unaccused(done))
        test = PairTest(scale=scale_of(samples), below=below)
        pairs: list[Pair] = []
        while not (pairs and (standing := test.standing(pairs)).verdict):
            rows = next(ours[samples]), next(base[samples])
            pair = climb_both(
                *map(Replayed, rows),
                seed=len(pairs),
                budget=default_recipe(samples).budget,
                settled=test.settled(pairs) if slower == 1 else lambda _: False,
            )
            pairs.append(replace(pair, ours=_slowed(pair.ours, slower)))
        done.append(Compared(samples=samples, standing=standing, pairs=tuple(pairs)))
    return done


def _slowed(way: Way, slower: float) -> Way:
    return replace(way, steps=round(slower * way.steps))


def unaccused(done: Sequence[Compared]) -> list[Compared]:
    """The rungs that a session takes together with the next: those since the last worse one."""
    worse = [place for place, one in enumerate(done, 1) if one.standing.verdict == "worse"]
    return list(done[max(worse, default=0) :])


def _bounds(pairs: Sequence[Pair]) -> tuple[Bounds, ...]:
    return tuple(clipped(bound) for pair in pairs if (bound := pair.log_ratio))


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
    """The same network with other seeds on both sides, and another norm; no course is used twice
    in one line.
    """
    ladders, truly = [], []
    for name in SOUND_SUBJECTS:
        own = {samples: courses(rows, name, samples) for samples in RUNGS}
        halves = [{n: iter(rung[half::2]) for n, rung in own.items()} for half in (0, 1)]
        ladders += list(_all(halves[0], halves[1]))
    lines = _rates("the same network, other seeds", ladders)
    ladders = []
    for ours, base in (*NORMS, *((b, a) for a, b in NORMS)):
        for samples in RUNGS:
            both = [{samples: iter(courses(rows, name, samples))} for name in (ours, base)]
            within = truth(rows, ours, base, samples) <= PairTest().tolerance
            (ladders if within else truly).extend(_all(both[0], both[1], (samples,)))
    lines += _rates("another norm, at most 1.25 times the steps in truth", ladders)
    words = Counter(rung.word for ladder in truly for rung in ladder)
    return [*lines, f"another norm that takes more in truth: {dict(words)}"]


def slowed(rows: Rows) -> list[str]:
    """The same network with other seeds, ours taken to need so many times the steps on every rung:
    at the tolerance, where a false claim is likeliest, and beyond. Courses are drawn anew for each
    ladder.
    """
    lines = []
    for slower, draws in SLOWED.items():
        ladders = [
            compared(_drawn(rows, name, i), _drawn(rows, name, -1 - i), slower=slower)
            for name in SOUND_SUBJECTS
            for i in range(draws)
        ]
        lines += _rates(f"the same network, taken to need {slower:g} times the steps", ladders)
    return lines


def planted(rows: Rows) -> list[str]:
    """How often each slow-down is found on the ladder, and what that costs. Courses are drawn anew
    for each ladder, so that ladders share some.
    """
    lines, costs, found = [], [], Counter[str]()
    for name, (host, _) in PLANTED.items():
        ratios = [truth(rows, name, host, samples) for samples in RUNGS]
        ladders = [
            compared(_drawn(rows, name, i), _drawn(rows, host, -1 - i)) for i in range(DRAWS)
        ]
        worse = [next((r for r in one if r.standing.verdict == "worse"), None) for one in ladders]
        alone = Counter(r.samples for one in ladders for r in one if _alone(r))
        shares = ", ".join(
            f"{samples}: {ratio:.1f} times, {100 * alone[samples] / DRAWS:.0f} %"
            for samples, ratio in zip(RUNGS, ratios, strict=True)
        )
        hits = sum(one is not None for one in worse)
        lines.append(f"{name} ({host}): found {hits} of {DRAWS}; by a rung alone: {shares}")
        kind = "clear" if max(ratios) >= CLEAR else "mild"
        found[kind] += hits
        found[f"all {kind}"] += DRAWS
        for rung, ratio in zip(ladders[0], ratios, strict=True):
            own = median(map(steps, courses(rows, name, rung.samples)))
            if ratio >= 4:
                costs += [
                    one.climbs / own
                    for ladder in ladders
                    for one in ladder
                    if one.samples == rung.samples and one.standing.verdict == "worse"
                ]
    for kind, words in (("clear", f"{CLEAR:g} times or more"), ("mild", "less")):
        total = found[f"all {kind}"]
        share = f" ({100 * found[kind] / total:.0f} %)" if total else ""
        lines.append(f"found of those with a rung of {words}: {found[kind]} of {total}{share}")
    if costs:
        lines.append(
            f"cost of a rung of 4 times or more, in climbs of ours: median {median(costs):.2f}, "
            f"95 % at most {sorted(costs)[int(0.95 * (len(costs) - 1))]:.2f}, most {max(costs):.2f}"
        )
    return lines


def _alone(rung: Compared) -> bool:
    return rung.standing.verdict == "worse" and not rung.standing.together


def _drawn(rows: Rows, name: str, seed: int) -> Courses:
    """Courses of a network in an order of their own, over and over."""
    order = random.Random(seed)
    drawn = {}
    for samples in RUNGS:
        own = courses(rows, name, samples)
        drawn[samples] = cycle(order.sample(own, len(own)))
    return drawn


def truth(rows: Rows, ours: str, base: str, samples: int) -> float:
    """The ratio of the median steps of all courses."""
    own, theirs = courses(rows, ours, samples), courses(rows, base, samples)
    return median(map(steps, own)) / median(map(steps, theirs))


def _all(ours: Courses, base: Courses, rungs: Sequence[int] = RUNGS) -> Iterator[list[Compared]]:
    """Ladders until there are no courses left."""
    while True:
        try:
            yield compared(ours, base, rungs)
        except StopIteration:
            return


def _rates(what: str, ladders: Sequence[Sequence[Compared]]) -> list[str]:
    rungs = [rung for ladder in ladders for rung in ladder]
    if not rungs:
        return [f"{what}: none"]
    words = Counter(rung.word for rung in rungs)
    wrong, total = words["worse"], len(rungs)
    bound = f", so at most {300 / total:.1f} % with 19 of 20" if not wrong else ""
    pairs = sum(len(rung.pairs) for rung in rungs) / total
    wrong_ladders = sum(any(rung.word == "worse" for rung in one) for one in ladders)
    return [
        f"{what}: {wrong} of {total} rungs worse{bound}; {wrong_ladders} of {len(ladders)} ladders; "
        f"{dict(words)}; {pairs:.1f} pairs on average"
    ]
