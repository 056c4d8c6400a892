"""How many seeds a verdict takes: Wald's sequential test between a sound network and a broken one.

A seed is a coin: a sound network holds a rung with at least 19 of 20, a broken one with at most 1
of 20. Each seed that holds multiplies the odds of `sound` by 19, each that fails divides them by
19. The rung is ok once the odds pass 1 / beta, and broken once they fall below alpha.
By default that takes one seed that holds, or two that fail: an accusation costs more than a miss.
Source: Wald 1945, "Sequential Tests of Statistical Hypotheses"; the bounds as Ville's inequality
gives them, at most alpha and beta however the test is cut short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SOUND, BROKEN = 0.95, 0.05
"""Share of seeds that hold: a sound network's at least, a broken one's at most.

Between the two either verdict is right.
"""
ALPHA, BETA, MOST = 0.01, 0.1, 3


@dataclass(frozen=True, kw_only=True)
class SeedTest:
    """alpha: largest chance that a sound network is called broken. beta: that a broken one is
    called ok. most: seeds tried at most.

    Where `most` seeds pass no bound, the likelier of the two is the verdict, and ok where neither
    is; `chance_of_error` says what that costs.
    """

    alpha: float = ALPHA
    beta: float = BETA
    most: int = MOST

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not 0 < value < 0.5:
                raise ValueError(f"--overfit-{name} must lie between 0 and 0.5, got {value:g}")
        if self.most < 1:
            raise ValueError(f"at least one seed must be tried, got {self.most}")

    def verdict(self, held: Sequence[bool]) -> Literal["ok", "broken"] | None:
        """What the seeds tried so far come to; None where another is needed.

        held: whether each seed held, in the order tried.
        """
        return self._judge(len(held), sum(held))

    def chance_of_error(self, held: Sequence[bool]) -> float:
        """The chance of this verdict, after as many seeds or fewer, for a network that deserves the
        other one, exactly.

        A sound network is taken to hold with 19 of 20 seeds, a broken one with 1 of 20. Raises
        ValueError where there is no verdict yet.
        """
        verdict = self.verdict(held)
        if verdict is None:
            raise ValueError(f"{len(held)} seeds come to no verdict")
        return self.chance(verdict, BROKEN if verdict == "ok" else SOUND, within=len(held))

    def chance(
        self, verdict: Literal["ok", "broken"], share: float, *, within: int | None = None
    ) -> float:
        """The chance that a network which holds with a `share` of all seeds comes to `verdict`
        within so many seeds, exactly.
        """
        return sum(
            chance
            for _, ended, chance in self._ends(share, within or self.most)
            if ended == verdict
        )

    def expected_seeds(self, share: float) -> float:
        """Seeds that a verdict takes on average, for a network that holds with a `share` of all
        seeds.
        """
        return sum(tried * chance for tried, _, chance in self._ends(share, self.most))

    def _judge(self, tried: int, held: int) -> Literal["ok", "broken"] | None:
        odds = held * math.log(SOUND / BROKEN) - (tried - held) * math.log(
            (1 - BROKEN) / (1 - SOUND)
        )
        if odds >= -math.log(self.beta):
            return "ok"
        if odds <= math.log(self.alpha):
            return "broken"
        if tried < self.most:
            return None
        return "broken" if odds < -1e-9 else "ok"

    def _ends(self, share: float, within: int) -> list[tuple[int, Literal["ok", "broken"], float]]:
        """(seeds tried, verdict, chance) of every way to end within so many seeds."""
        ends: list[tuple[int, Literal["ok", "broken"], float]] = []
        open_chances = {0: 1.0}
        for tried in range(1, within + 1):
            reached: dict[int, float] = {}
            for held, chance in open_chances.items():
                reached[held] = reached.get(held, 0.0) + chance * (1 - share)
                reached[held + 1] = reached.get(held + 1, 0.0) + chance * share
            open_chances = {}
            for held, chance in reached.items():
                if (ended := self._judge(tried, held)) is None:
                    open_chances[held] = chance
                else:
                    ends.append((tried, ended, chance))
        return ends
