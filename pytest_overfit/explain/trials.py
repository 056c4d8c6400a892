"""Trials: the broken rung climbed again with one remedy each, several at a time where the process
has threads to spare.

A trial that runs beside others runs in a forked process of one thread: networks and subjects need
not be picklable, and no trial's randomness reaches another's.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import zip_longest
from multiprocessing.connection import Connection, wait
from typing import Literal

import torch

from pytest_overfit import errors
from pytest_overfit.climb.attempt import LOOKS, OnStep, OutOfTime, until
from pytest_overfit.climb.ladder import Rung
from pytest_overfit.climb.outcome import Outcome
from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.bench import CLIPS
from pytest_overfit.findings.catalogue import record_of
from pytest_overfit.findings.examine import is_found_again
from pytest_overfit.findings.remedies import Remedy
from pytest_overfit.findings.training import CAUSE_NOT_LOCATED
from pytest_overfit.network.network_edits import CannotEdit
from pytest_overfit.subject import Subject

LEAST_SECONDS = 30.0
"""What trials may take at least; else as long as the climb they explain."""
SHOWN_SECONDS = 90.0
"""What one may climb for that has taken a finding of the contracts away, whatever those before it took:
it is the likeliest by far, and its network is sound for all that is known.
"""

Trials = Literal["off", "auto", "all"]
Planned = tuple[Finding, Remedy]


class TrialEnded(StrEnum):
    """Why a trial did not go to its end."""

    NOT_APPLICABLE = "not applicable"
    STILL_FOUND = "still found"
    OUT_OF_TIME = "out of time"
    RAISED = "raised"
    TOOL_FAILED = "pytest-overfit failed"
    DIED = "died"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of a rung with a remedy. ended: what kept it from its end, if anything did.

    why: that in words.
    """

    finding: str
    remedy: str
    held: bool
    steps: int
    seconds: float
    ended: TrialEnded | None = None
    why: str | None = None


def try_remedy(
    rung: Rung, finding: Finding, remedy: Remedy, *, seconds: float, raced: bool = False
) -> Trial:
    """Climb `rung` on a fresh network with one remedy, for at most `seconds`, see LEAST_SECONDS.
    raced: at the other rates as well, none of which mended it by itself.

    A finding of the contracts must be gone as well. What was inferred must be mended with another
    seed too, with which the rung does not hold by itself: a change may hold by luck of its draw.
    """
    began = time.monotonic()

    def trial(
        held: bool,
        steps: int = 0,
        ended: TrialEnded | None = None,
        why: str | None = None,
        rate: float = rung.recipe.lr,
        left: str = "",
    ) -> Trial:
        seconds = time.monotonic() - began
        return Trial(
            finding=finding.name,
            remedy=remedy.name
            + (f" and a learning rate of {rate:g}" if held and rate != rung.recipe.lr else "")
            + (f", but for {left}" if held and left else ""),
            held=held,
            steps=steps,
            seconds=seconds,
            ended=ended,
            why=why,
        )

    try:
        mended = replace(remedy.change(rung, finding), seeds=rung.seeds[:1])
        if raced and mended.recipe.lr != rung.recipe.lr:
            raise CannotEdit("other rates were tried")
        if mended.subject is not rung.subject:
            mended = replace(mended, examined=None)
        if _found_again(mended, finding):
            return trial(False, ended=TrialEnded.STILL_FOUND, why=f"{finding.name} is still found")
        if not raced:
            mended = replace(mended, recipe=replace(mended.recipe, fallbacks=()))
        if _was_shown(finding, rung):
            seconds = max(seconds, time.monotonic() - began + SHOWN_SECONDS)
        outcome = mended.climb(until(began + seconds))
        if finding.name in {one.name for one in _against(outcome)}:
            return trial(
                False,
                steps=outcome.steps,
                ended=TrialEnded.STILL_FOUND,
                why=f"{finding.name} is still found",
            )
        left = left_of(outcome)
        if outcome.status != "ok" and (
            not left or not _was_shown(finding, rung) or left_of(rung.climb(until(began + seconds)))
        ):
            return trial(False, steps=outcome.steps)
        rate = outcome.deciding[-1].recipe.lr if raced else rung.recipe.lr
        rated = replace(rung, recipe=replace(rung.recipe, lr=rate)) if raced else rung
        why = _doubt(rated, mended, finding, outcome.steps, until(began + seconds), raced=raced)
        return trial(why is None, steps=outcome.steps, why=why, rate=rate, left=left)
    except OutOfTime as late:
        return trial(False, steps=late.step, ended=TrialEnded.OUT_OF_TIME, why="out of time")
    except CannotEdit as error:
        return trial(False, ended=TrialEnded.NOT_APPLICABLE, why=str(error))
    except Exception as error:  # a changed network may fail in any way; the trial then says which
        if errors.is_ours(error):
            return trial(
                False,
                ended=TrialEnded.TOOL_FAILED,
                why=f"pytest-overfit itself failed:\n{errors.whole(error)}",
            )
        return trial(
            False,
            ended=TrialEnded.RAISED,
            why=f"{type(error).__name__}: {errors.first_line(error)}",
        )


def _against(outcome: Outcome) -> list[Finding]:
    """What breaks a rung whose criteria hold; nothing where they do not, or it holds."""
    attempt = outcome.attempts[-1] if outcome.attempts else None
    if attempt is None or attempt.held or not all(verdict.held for verdict in attempt.verdicts):
        return []
    return [finding for finding in attempt.findings if finding.fails()]


def left_of(outcome: Outcome) -> str:
    """What is left of a rung whose criteria hold and that is broken all the same, by what keeps no
    network from memorising: padding that the pass hangs on. Nothing where that is not all.
    """
    failing = _against(outcome)
    spared = all((own := record_of(one.name)) and own.harmless for one in failing)
    return naming([one.name for one in failing]) if spared else ""


def _was_shown(finding: Finding, rung: Rung) -> bool:
    """Whether a finding was not merely inferred from a rung that broke."""
    return finding.status == "confirmed" or finding.name in {one.name for one in rung.violated}


def _found_again(rung: Rung, finding: Finding) -> bool:
    record = record_of(finding.name, rung.subject)
    of_network = record is not None and record.stage == "network"
    samples = rung.subject.offered(max(rung.samples, CLIPS if of_network else 0))
    return is_found_again(
        finding, rung.subject, samples, seed=rung.seeds[0], device=rung.device, size=rung.size
    )


def _doubt(
    rung: Rung, mended: Rung, finding: Finding, steps: int, on_step: OnStep, *, raced: bool
) -> str | None:
    """Why a change with which a rung held in so many steps is not what mended it, in words. rung: at
    the rate at which it held; of a race that rate may have been dropped early.
    """
    if _holds_as_it_is(rung, steps, on_step, raced=raced):
        return f"in {steps} steps the rung holds without it"
    if _was_shown(finding, rung):
        return None  # that it is gone was counted
    failed = rung.seeds[1:2]
    seed = failed[0] if failed else rung.seeds[0] + 1
    again = replace(mended, seeds=(seed,)).climb(on_step)
    if again.status != "ok":
        return f"with seed {seed} the rung breaks all the same"
    as_it_is = replace(rung, seeds=(seed,), raced=raced)
    if not failed and as_it_is.climb(on_step).status == "ok":
        return f"with seed {seed} the rung holds without it"
    return None


def _holds_as_it_is(rung: Rung, steps: int, on_step: OnStep, *, raced: bool = False) -> bool:
    """Whether a rung whose climb may have ended early, as one of a race may, holds in as many steps
    as a remedy took, so that this has mended nothing.
    """
    looked = steps <= round(LOOKS[0] * rung.recipe.budget)
    if not raced and (looked or not rung.hasty or not rung.violated):
        return False
    patient = replace(
        rung,
        seeds=rung.seeds[:1],
        recipe=replace(rung.recipe, budget=steps, overtime=0.0, fallbacks=()),
        hasty=False,
    )
    try:
        return patient.climb(on_step).status == "ok"
    except OutOfTime:
        raise
    except Exception:  # a rung that cannot be trained without a remedy does not hold without it
        return False


def remedies_for(finding: Finding, subject: Subject | None = None) -> tuple[Remedy, ...]:
    """What its record says may mend it, likeliest first."""
    record = record_of(finding.name, subject)
    return record.remedies if record else ()


def plan(
    found: Sequence[Finding], trials: Trials, subject: Subject | None = None
) -> Iterable[Planned]:
    """What to try, in order: the likeliest remedy of each finding, then the second of each, ...; of
    those that are confirmed and fail the network before any of the others.
    """
    if trials == "off":
        return
    for confirmed in (True, False):
        columns = [
            [(finding, remedy) for remedy in remedies_for(finding, subject)]
            for finding in found
            if (finding.status == "confirmed" and finding.fails()) is confirmed
        ]
        for likeliest in zip_longest(*columns):
            yield from (pair for pair in likeliest if pair is not None)
    if trials == "all" or not found:
        unknown = CAUSE_NOT_LOCATED.finding(headline="cause not located")
        for remedy in CAUSE_NOT_LOCATED.remedies:
            yield unknown, remedy


def run_trials(
    rung: Rung,
    found: Sequence[Finding],
    climbed_seconds: float,
    trials: Trials,
    *,
    raced: bool = False,
) -> tuple[Trial, ...]:
    """Try remedies until one holds, or, for "all", each of them; in the order of the plan.

    For "auto" within the time that the climb took; and half as long again at the other rates where
    none holds: what a change mends may need another one. Those of findings that a rung was merely
    inferred to have are tried so only if none of these rates mends it by itself (raced).
    """
    planned = list(plan(found, trials, rung.subject))
    if trials != "auto":
        return _tried(rung, planned, ends=math.inf, until_one_holds=False)
    seconds = max(climbed_seconds, LEAST_SECONDS)
    first = _tried(rung, planned, ends=time.monotonic() + seconds)
    if any(trial.held for trial in first):
        return first
    went_on = {
        (trial.finding, trial.remedy)
        for trial in first
        if trial.ended in (None, TrialEnded.OUT_OF_TIME)
    }
    again = [
        (finding, remedy)
        for finding, remedy in planned
        if (finding.name, remedy.name) in went_on and (raced or _was_shown(finding, rung))
    ]
    ends = time.monotonic() + max(seconds / 2, LEAST_SECONDS)
    more = _tried(rung, again, ends=ends, raced=True)
    return first + tuple(trial for trial in more if trial.held)


def _tried(
    rung: Rung,
    planned: Sequence[Planned],
    *,
    ends: float,
    until_one_holds: bool = True,
    raced: bool = False,
) -> tuple[Trial, ...]:
    """One after another, or several at a time, until a moment."""
    at_once = min(beside_each_other(rung.device), len(planned))
    if at_once > 1:
        return _forked(
            rung, planned, ends=ends, at_once=at_once, until_one_holds=until_one_holds, raced=raced
        )
    tried: list[Trial] = []
    for finding, remedy in planned:
        if time.monotonic() >= ends or (until_one_holds and any(trial.held for trial in tried)):
            break
        seconds = ends - time.monotonic()
        tried.append(try_remedy(rung, finding, remedy, seconds=seconds, raced=raced))
    return tuple(tried)


def beside_each_other(device: str) -> int:
    """How many trials to run at once: one a thread of this process, where it can fork; a process
    that has met a GPU cannot.
    """
    return (
        torch.get_num_threads()
        if device == "cpu" and hasattr(os, "fork") and not torch.cuda.is_available()
        else 1
    )


def _forked(
    rung: Rung,
    planned: Sequence[Planned],
    *,
    ends: float,
    at_once: int,
    until_one_holds: bool,
    raced: bool,
) -> tuple[Trial, ...]:
    """Where one held, those planned before it are awaited and those after it ended, so that what is
    confirmed hangs on no race.
    """
    results: dict[int, Trial] = {}
    waiting, last = list(enumerate(planned)), len(planned)
    with _processes() as running:
        while running or waiting:
            while (
                waiting
                and len(running) < at_once
                and waiting[0][0] < last
                and time.monotonic() < ends
            ):
                place, (finding, remedy) = waiting.pop(0)
                seconds = ends - time.monotonic()
                running[_start(rung, finding, remedy, seconds, raced=raced)] = place
            if not any(place < last for place in running.values()):
                break
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                place = running.pop(connection)
                results[place] = _received(connection, planned[place])
                if results[place].held and until_one_holds:
                    last = min(last, place)
    return tuple(results[place] for place in sorted(results) if place <= last)


@contextmanager
def _processes() -> Iterator[dict[Connection, int]]:
    """The trials under way, by the pipe that will tell of them; what still runs at the end is
    ended.
    """
    before = set(multiprocessing.active_children())
    try:
        yield {}
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
            process.join()


def _start(
    rung: Rung, finding: Finding, remedy: Remedy, seconds: float, *, raced: bool
) -> Connection:
    """A trial in a process of its own. Returns the pipe that it answers by."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        torch.set_num_threads(1)
        sender.send(try_remedy(rung, finding, remedy, seconds=seconds, raced=raced))

    with warnings.catch_warnings():
        # Python 3.12 warns that other threads of the parent stand still in the child: with one
        # thread torch asks for none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        multiprocessing.get_context("fork").Process(target=run, daemon=True).start()
    sender.close()
    return receiver


def _received(connection: Connection, planned: Planned) -> Trial:
    """What a trial told; one whose process died says so."""
    finding, remedy = planned
    with connection:
        try:
            trial: Trial = connection.recv()
        except EOFError:
            why = "its process ended without a word"
            return Trial(
                finding=finding.name,
                remedy=remedy.name,
                held=False,
                steps=0,
                seconds=0.0,
                ended=TrialEnded.DIED,
                why=why,
            )
    return trial
