"""One rival on one network: every check of it within a limit of time, and what they complain of."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from typing import Any

import torch

from examination.hosts import HOSTS, host_subject
from examination.planted import faults_for
from examination.results import Job
from examination.rivals_checks import RIVALS, Check, Complaints
from examination.rivals_given import CLIPS, Given
from examination.rivals_watch import DONE, Begun, Died, Hung, watched
from pytest_overfit.recipe import Recipe, default_recipe
from pytest_overfit.subject import Subject
from tests.engine.sound import SOUND

HOST = HOSTS["bigru"]
LIMIT = 180.0
"""Seconds a check may take, ten times what the slowest takes on the healthy network."""
RAISED = "!"
"""Ends the name of a check in which something else than its own assertion raised, or ended the
process: in the planted code or in the rival.
"""


@dataclass(kw_only=True)
class RivalRow:
    """What a rival said. network: the rival's name. kind: "fault" or "sound".

    complaints: name -> first line. unfinished: checks out of time.
    """

    kind: str
    network: str
    name: str
    version: str
    seed: int = 0
    complaints: Complaints = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    seconds: float = 0.0


def installed(rival: str) -> str | None:
    """The rival's version, None where it is not installed."""
    try:
        return version(rival)
    except PackageNotFoundError:
        return None


def cases() -> list[tuple[str, str]]:
    """kind, name of everything that rivals are shown: the healthy network and its sound changes
    first.
    """
    return [
        *(("sound", name) for name in SOUND),
        *(("fault", fault.name) for fault in faults_for(HOST)),
    ]


def case(kind: str, name: str) -> tuple[Subject, Recipe]:
    if kind == "sound":
        return SOUND[name](), default_recipe(CLIPS)
    fault = next(fault for fault in faults_for(HOST) if fault.name == name)
    return fault.plant(host_subject(HOST)), fault.recipe(default_recipe(CLIPS))


def examine(job: Job) -> dict[str, Any]:
    """The row of one rival on one network.

    Its checks run in another process: planted code may end it.
    """
    kind, rival, name, _ = job
    began = time.monotonic()
    row = RivalRow(kind=kind, network=rival, name=name, version=version(rival))
    for title, answer in watched(check_all, kind, rival, name, limit=LIMIT):
        if isinstance(answer, Hung):
            row.unfinished.append(title)
        elif isinstance(answer, Died):
            row.complaints[title + RAISED] = f"the process ended with {answer.code}"
        else:
            row.complaints |= answer
    row.seconds = time.monotonic() - began
    return asdict(row)


def check_all(report: Connection, skip: int, kind: str, rival: str, name: str) -> None:
    """Do a rival's checks but the first few, and report each as it begins and with its
    complaints.
    """
    torch.set_num_threads(1)
    for title, check in list(RIVALS[rival]().items())[skip:]:
        report.send((title, Begun()))
        report.send((title, complaints(title, check, kind, name)))
    report.send((DONE, None))


def complaints(title: str, check: Check, kind: str, name: str) -> Complaints:
    """What one check holds against a fresh network, in one line each."""
    torch.manual_seed(0)
    quiet = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        warnings.simplefilter("ignore")
        try:
            found = check(Given(*case(kind, name)))
        except AssertionError as error:
            found = {title: str(error)}
        # whatever the planted code raises in a rival's hands is the rival's verdict too
        except Exception as error:
            found = {title + RAISED: f"{type(error).__name__}: {error}"}
    return {
        one: next((line.strip() for line in words.splitlines() if line.strip()), "")[:160]
        for one, words in found.items()
    }
