"""Which rung a process climbs next. Under xdist several processes climb one ladder, each rung once.

The lowest open rung comes first, since a break there spares those above; where another process is
at it, the highest does, which takes longest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from pytest_overfit.climb.ladder import Outcome
from pytest_overfit.plugin.store import Climbed, Store

POLL_SECONDS = 0.1


class Abandoned(Exception):
    """A lower rung broke in another process."""


@dataclass(frozen=True, kw_only=True)
class SharedLadder:
    """The rungs of one subject that a session climbs, and what its processes know of them.

    climb: trains the rung of so many samples; None where it was abandoned.
    """

    subject: str
    rungs: tuple[int, ...]
    key: str
    store: Store
    climb: Callable[[int], Climbed | None]

    def known(self, samples: int) -> list[Outcome]:
        """The outcomes so far; that of `samples` is `not tried` where a lower rung broke."""
        known = [outcome for rung in self.rungs if (outcome := self.store.get(self.key, rung))]
        broken = next((outcome.samples for outcome in known if outcome.status == "broken"), None)
        if broken is not None and broken < samples:
            others = [outcome for outcome in known if outcome.samples != samples]
            return [*others, self._not_tried(samples, broken)]
        return known

    def outcome(self, samples: int) -> Outcome:
        """The outcome of a rung. Until it is known, climb what is not yet climbed."""
        while True:
            below = [rung for rung in self.rungs if rung < samples]
            broken = self._lowest_broken()
            if broken < samples:
                return self._not_tried(samples, int(broken))
            own = self.store.get(self.key, samples)
            if own and all(self.store.get(self.key, rung) for rung in below):
                return own
            if not self.climb_one():
                time.sleep(POLL_SECONDS)

    def climb_one(self) -> bool:
        """Climb one open rung that no other process is at; False where there is none."""
        broken = self._lowest_broken()
        open_rungs = [r for r in self.rungs if r < broken and not self.store.get(self.key, r)]
        for samples in open_rungs[:1] + open_rungs[:0:-1]:
            with self.store.claim(self.key, samples) as mine:
                if mine and not self.store.get(self.key, samples):
                    if climbed := self.climb(samples):
                        self.store.put(self.key, *climbed)
                    return True
        return False

    def abandon_above_a_break(self, samples: int) -> None:
        """Raises Abandoned where a rung below `samples` broke in the meantime."""
        if self._lowest_broken() < samples:
            raise Abandoned

    def _lowest_broken(self) -> float:
        for samples in self.rungs:
            outcome = self.store.get(self.key, samples)
            if outcome and outcome.status == "broken":
                return samples
        return math.inf

    def _not_tried(self, samples: int, broken: int) -> Outcome:
        return Outcome(subject=self.subject, samples=samples, status="not tried", broke_at=broken)
