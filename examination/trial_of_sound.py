"""Sound subjects: contracts, rungs and diagnoses, none of which may say anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from examination.hosts import HOSTS, host_subject, raw
from examination.others import conformer, crnn, wav2vec2
from examination.trial_of_faults import Row
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.explain.diagnosis import examine_rung
from pytest_overfit.findings.examine import check
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject
from tests.engine.sound import SOUND
from tests.engine.subjects import HEALTHY

CLIMBED = (1, 2, 5)
NOT_CLIMBED = ("bigru, label smoothing", "bigru, focal CTC")
"""Sound, but contracts only: the rung of one sample asks for a CTC loss that smoothing forbids, and
at which a focal loss has no gradient left.
"""

SOUND_SUBJECTS: dict[str, Callable[[Path | None], Subject]] = {
    **{f"bigru, {name}": lambda _, change=change: change() for name, change in SOUND.items()},
    **{name: lambda _, make=make: make() for name, make in HEALTHY.items() if name != "bigru"},
    **{make.__name__: lambda _, make=make: make() for make in (conformer, crnn, wav2vec2)},
    **{
        name: lambda clips, host=host: host_subject(host, clips)
        for name, host in HOSTS.items()
        if name != "bigru"
    },
}


def examine_sound(name: str, seed: int, clips: Path | None = None) -> Row:
    """Contracts, then for the first seed each rung with the diagnoses of what it did.

    Counts the runs; every finding is an alarm.
    """
    began = time.monotonic()
    row = Row(kind="sound", network="sound", name=name, seed=seed)
    subject = SOUND_SUBJECTS[name](clips)
    row.alarms += [
        f"contract: {finding.name}: {finding.headline}"
        for finding in check(subject, raw(subject), seed=seed)
    ]
    row.runs += 1
    for samples in () if name in NOT_CLIMBED else CLIMBED:
        rung = Rung(
            subject=subject,
            samples=samples,
            recipe=default_recipe(samples),
            criteria=criteria_for(samples),
            seeds=(seed,),
        )
        outcome = rung.climb()
        row.runs += 1
        row.alarms += [f"rung {samples} is broken"] if outcome.status != "ok" else []
        row.alarms += [
            f"rung {samples}: {finding.name}: {finding.headline}"
            for finding in examine_rung(rung, outcome)
        ]
    row.seconds = time.monotonic() - began
    return row
