"""A rung compared: pairs of courses until the test decides, and what else tells the sides apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any

from pytest_overfit.against.guilty import Guilty
from pytest_overfit.against.pairing import Pair, climb_both
from pytest_overfit.against.sides import Side, SideFailed
from pytest_overfit.against.times import CLAIMS, TimeRatio, judge_time, time_ratio, timed
from pytest_overfit.against.verdict import (
    Bounds,
    PairTest,
    PairVerdict,
    Standing,
    clipped,
    scale_of,
)

HOPELESS = 2
"""Pairs after which a rung is given up that neither side holds."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a rung came to against the other side, `base`.

    verdict: None where there was nothing to compare; note: why. steps: for each seed (seed, ours,
    did they hold, theirs, did they hold). ratio, low, high: of steps, ours over theirs. error: (step,
    ours, theirs): token error rates at equal steps of the first seed. parameters, memory_bytes:
    (ours, theirs). time: of a step; slower: by more than the tolerance, beyond its noise. courses:
    that both sides climbed; cached: of them, those of the cache; elsewhere: of those, the ones that
    another processor climbed. log_ratios: of each pair, between which bounds the logarithm of the
    ratio lies. together: the rungs, this one last, that it took to find it worse; empty where it
    took this one alone.
    """

    subject: str
    samples: int
    base: str
    tolerance: float
    alpha: float
    beta: float
    verdict: PairVerdict | None = None
    note: str | None = None
    steps: tuple[tuple[int, int, bool, int, bool], ...] = ()
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    decided: bool = False
    chance_of_error: float | None = None
    error: tuple[int, float, float] | None = None
    parameters: tuple[int, int] = (0, 0)
    memory_bytes: tuple[int, int] | None = None
    time: TimeRatio | None = None
    slower: bool = False
    same: bool = False
    guilty: tuple[Guilty, ...] = ()
    log_ratios: tuple[Bounds, ...] = ()
    together: tuple[int, ...] = ()
    courses: int = 0
    cached: int = 0
    elsewhere: int = 0

    @property
    def culprit(self) -> Guilty | None:
        """The change that mends the rung when it is put back alone, the narrowest that was tried."""
        return next((one for one in reversed(self.guilty) if one.confirmed), None)

    @property
    def fails(self) -> bool:
        """Whether the change learns worse, or is slower a step, by more than the tolerance."""
        return self.verdict == "worse" or self.slower

    def to_json(self) -> dict[str, Any]:
        """Its fields, in plain types."""
        return asdict(self)


def comparison_from_json(row: dict[str, Any]) -> Comparison:
    """What `Comparison.to_json` wrote."""
    tuples = {
        name: tuple(row[name]) if row[name] else row[name]
        for name in ("error", "parameters", "memory_bytes", "together")
    }
    tuples["log_ratios"] = tuple(map(tuple, row["log_ratios"]))
    time = TimeRatio(**row["time"]) if row["time"] else None
    guilty = tuple(Guilty(**one) for one in row["guilty"])
    steps = tuple(tuple(one) for one in row["steps"])
    return Comparison(**{**row, **tuples, "time": time, "steps": steps, "guilty": guilty})


def taken_together(lower: Sequence[Comparison]) -> list[Comparison]:
    """Of lower rungs, ascending, those that the next is taken together with: the ones since the
    last worse one, since what accused there accuses no other.
    """
    worse = [place for place, one in enumerate(lower, 1) if one.verdict == "worse"]
    return [one for one in lower[max(worse, default=0) :] if one.verdict]


@dataclass(kw_only=True)
class Compared:
    """Pairs as they come. ours, base: running sides. key: which ladder of theirs."""

    ours: Side
    base: Side
    key: str
    samples: int
    budget: int
    test: PairTest
    pairs: list[Pair] = field(default_factory=list)
    memory: tuple[int, int] | None = None

    def climb(self, seeds: Iterator[int]) -> Standing:
        """Climb pair after pair until the test comes to a verdict."""
        while True:
            seed = next(seeds)
            self.pairs.append(
                climb_both(
                    Asked(self.ours, self.key, self.samples, seed),
                    Asked(self.base, self.key, self.samples, seed),
                    seed=seed,
                    budget=self.budget,
                    settled=self.test.settled(self.pairs),
                )
            )
            if self.memory is None:
                self.memory = tuple(one.ask(do="memory")["bytes"] for one in (self.ours, self.base))
            if (standing := self.test.standing(self.pairs)).verdict or self.hopeless:
                return standing

    @property
    def hopeless(self) -> bool:
        """Whether neither side has held with any of the first seeds: more of them cost a whole
        budget each, and tell no ratio.
        """
        return len(self.pairs) >= HOPELESS and not any(
            pair.log_ratio or pair.same for pair in self.pairs
        )

    def step_time(self, alpha: float) -> TimeRatio | None:
        """Of the turns that both sides climbed, or of rounds that are taken for it where those leave
        it open: a course of the cache has none, and those of a small network are too short.
        """
        climbed = time_ratio(
            [ratio for pair in self.pairs for ratio in pair.step_times], alpha / CLAIMS
        )
        if judge_time(climbed, self.test.tolerance) is not None:
            return climbed
        at = self.key, self.samples
        taken = timed(
            lambda course: (TimedSteps(self.ours, *at, course), TimedSteps(self.base, *at, course)),
            chance=alpha,
            tolerance=self.test.tolerance,
        )
        return taken or climbed


@dataclass(frozen=True)
class Asked:
    """A side's course with one seed."""

    side: Side
    key: str
    samples: int
    seed: int

    def advance(self, to: int) -> dict[str, Any]:
        """Its next piece. Raises SideFailed."""
        return self._ask(do="advance", to=to)

    def _ask(self, **what: Any) -> dict[str, Any]:
        return self.side.ask(key=self.key, samples=self.samples, seed=self.seed, **what)


@dataclass(frozen=True)
class TimedSteps(Asked):
    """Steps of a side with one seed, for their time alone. course: each begins anew, so that both
    sides of a round stand at the same step.
    """

    course: int = field(default_factory=count().__next__)

    def take(self, steps: int) -> dict[str, Any]:
        """As `Timed` has it. Raises SideFailed."""
        return self._ask(do="time", course=self.course, steps=steps)


@dataclass(frozen=True, kw_only=True)
class Worse:
    """A rung that ours learns worse, or where its steps take longer. ratio: of steps. files: that
    either side imported, relative to its tree.
    """

    pairs: tuple[Pair, ...]
    budget: int
    files: tuple[str, ...]
    key: str
    samples: int
    ratio: float
    slower: bool


def compare(
    ours: Side,
    base: Side,
    *,
    subject: str,
    key: str,
    samples: int,
    seeds: Iterator[int],
    test: PairTest,
    below: Sequence[Comparison] = (),
    blame: Callable[[Worse], tuple[Guilty, ...]] = lambda worse: (),
) -> Comparison:
    """Compare one rung. A side that cannot climb is told of, and accuses nobody: where it is ours,
    the climb itself fails. below: what lower rungs of the ladder came to. blame: looks for the guilty change where ours is worse.
    """
    known: dict[str, Any] = {
        "subject": subject,
        "samples": samples,
        "base": base.name,
        "tolerance": test.tolerance,
        "alpha": test.alpha,
        "beta": test.beta,
    }
    opened = []
    for side in (base, ours):
        try:
            opened.append(side.ask(do="open", key=key, samples=samples))
        except SideFailed as error:
            return Comparison(**known, note=f"{side.name} cannot be climbed: {error}")
    theirs, own = opened
    test = replace(
        test,
        below=tuple((scale_of(one.samples), tuple(map(clipped, one.log_ratios))) for one in below),
    )
    budget = max(own["budget"], theirs["budget"])
    compared = Compared(ours=ours, base=base, key=key, samples=samples, budget=budget, test=test)
    try:
        standing = compared.climb(seeds)
        time = compared.step_time(test.alpha)
        accounts = [side.ask(do="account") for side in (ours, base)]
    except SideFailed as error:
        return Comparison(**known, note=f"the climb raised: {error}")
    pairs = compared.pairs
    verdict = None if not any(pair.log_ratio or pair.same for pair in pairs) else standing.verdict
    slower = judge_time(time, test.tolerance) == "worse"
    worse = Worse(
        pairs=tuple(pairs),
        budget=budget,
        files=tuple(dict.fromkeys((*own["files"], *theirs["files"]))),
        key=key,
        samples=samples,
        ratio=standing.ratio,
        slower=verdict != "worse",
    )
    return Comparison(
        **known,
        verdict=verdict,
        note="; ".join(_notes(own, theirs, verdict, sum(one["damaged"] for one in accounts)))
        or None,
        steps=tuple(_steps(pair) for pair in pairs),
        ratio=standing.ratio if verdict else 0.0,
        low=standing.low,
        high=standing.high,
        decided=standing.decided,
        chance_of_error=standing.chance_of_error,
        error=pairs[0].error_at_equal_steps(),
        parameters=(own["parameters"], theirs["parameters"]),
        memory_bytes=compared.memory,
        time=time,
        slower=slower,
        same=any(pair.same for pair in pairs),
        log_ratios=tuple(bound for pair in pairs if (bound := pair.log_ratio)),
        together=(*(one.samples for one in below), samples) if standing.together else (),
        guilty=blame(worse) if verdict == "worse" or slower else (),
        **{name: sum(one[name] for one in accounts) for name in ("courses", "cached", "elsewhere")},
    )


def _steps(pair: Pair) -> tuple[int, int, bool, int, bool]:
    return pair.seed, pair.ours.steps, pair.ours.held, pair.base.steps, pair.base.held


def _notes(
    own: dict[str, Any], theirs: dict[str, Any], verdict: PairVerdict | None, damaged: int
) -> Iterator[str]:
    if verdict is None:
        yield "neither side holds within the budget"
    if own["samples"] != theirs["samples"]:
        yield "the samples differ: each side climbs those that its own code gives"
    if damaged:
        yield f"damaged in the cache, and climbed anew: {damaged}"
