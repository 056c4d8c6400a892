"""A search as a pytest case: in the place of a subject's rungs, one for each process at work."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pytest_overfit.climb.attempt import Progress
from pytest_overfit.host import lent, own_randomness
from pytest_overfit.plugin.cases import SHOW_SECONDS
from pytest_overfit.plugin.settings import Settings
from pytest_overfit.plugin.store import Store
from pytest_overfit.search.asking import RUNGS, search_of
from pytest_overfit.search.result import as_text, write
from pytest_overfit.search.running import Trial, run
from pytest_overfit.subject import Subject


class NothingHolds(AssertionError):
    """No recipe of a search climbs its rungs."""


NothingHolds.__module__ = "builtins"


@dataclass(frozen=True)
class SearchCase:
    """One process's part in the search for a subject, as pytest sees it."""

    subject: Subject
    rungs: tuple[int, ...] | None
    part: int
    parts: int

    @property
    def samples(self) -> int:
        """Of the highest rung."""
        return (self.rungs or RUNGS)[-1]

    def __str__(self) -> str:
        part = f" {self.part} of {self.parts}" if self.parts > 1 else ""
        return f"{self.subject.name}-search at {self.samples} samples{part}"


@dataclass(kw_only=True, repr=False)
class OverfitSearch:
    """What the fixture `overfit_rung` gives where a search was asked for: `climb` searches."""

    case: SearchCase
    asked: str
    storage: str | None
    folder: Path
    store: Store
    settings: Settings
    body: str = ""

    def __repr__(self) -> str:
        return f"<search {self.case}>"

    def climb(self) -> tuple[Trial, ...]:
        """Search, together with the other processes; returns all trials, best first.

        Raises NothingHolds where none holds; fails with one line where the search cannot be made.
        """
        __tracebackhide__ = True
        subject, device = self.case.subject, self.settings.device
        try:
            with lent(self.settings.threads), own_randomness(device):
                settings = replace(self.settings, rungs=self.case.rungs)
                search = search_of(
                    self.asked, subject, settings, folder=self.folder, storage=self.storage
                )
                self._of = search.trials
                trials = run(
                    search,
                    on_begin=self._begin,
                    on_trial=self._count,
                    on_step=self._show,
                )
        except ValueError as error:  # every error about input is one
            pytest.fail(str(error), pytrace=False)
        written = write(search, trials, self.folder, earlier=self._earlier)
        paths = ", ".join(str(path) for path in written)
        self.body = f"{as_text(search, trials, earlier=self._earlier)}\nwritten: {paths}"
        nearest = trials[0]
        if not nearest.result.held:
            raise NothingHolds(
                f"{search.name}: none of {len(trials)} trials holds; trial {nearest.number} came "
                f"nearest: {nearest.result.ended}, on the level `{nearest.result.level}`"
            )
        return trials

    def _begin(self, earlier: int) -> None:
        self._earlier = self._ended = earlier

    def _count(self, trial: Trial, ended: int) -> None:
        self._ended = ended

    def _show(self, progress: Progress) -> None:
        """Leave word for the live line."""
        if time.monotonic() - self._shown > SHOW_SECONDS:
            self._shown = time.monotonic()
            words = f"search for {self.case.subject.name}, {self._ended} of {self._of} trials ended"
            self.store.show(f"{words}; now", progress)

    _shown = float("-inf")
    _earlier = _ended = _of = 0
