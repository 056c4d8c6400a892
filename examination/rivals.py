"""What other tools say of the same faults in the same network: pytest-torch, torchtest2 and
neural-net-checklist, beside what this one says.

`pip install "pytest-overfit[rivals]"` brings them. Each finished trial is a line in
`logs/rivals.jsonl`, so that a run that was cut off goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from examination.results import Job, append_row, read_rows
from examination.rivals_checks import RIVALS
from examination.rivals_table import markdown
from examination.rivals_trial import cases, examine, installed

RESULTS, OWN = Path("logs/rivals.jsonl"), Path("logs/examination.jsonl")
WORKERS = 2


def table(workers: int = WORKERS) -> str:
    """Faults planted in the BiGRU x rivals, as Markdown; "" where none is installed and none was
    before.
    """
    run(left(), workers)
    known = {job for rival in RIVALS for job in jobs(rival)}
    return markdown(
        [row for job, row in read_rows(RESULTS).items() if job in known],
        list(read_rows(OWN).values()),
    )


def jobs(rival: str) -> list[Job]:
    return [(kind, rival, name, 0) for kind, name in cases()]


def left() -> list[Job]:
    """What has not been tried yet with the versions that are installed."""
    done = read_rows(RESULTS)
    versions = {rival: found for rival in RIVALS if (found := installed(rival))}
    return [
        job
        for rival, found in versions.items()
        for job in jobs(rival)
        if done.get(job, {}).get("version") != found
    ]


def run(left: Iterable[Job], workers: int) -> None:
    """Try, each in a process of its own and of one thread; every row is written as soon as it is
    done.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(examine, job) for job in left]
        for number, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            append_row(RESULTS, row)
            said = (
                ", ".join(
                    (*row["complaints"], *(f"{one} out of time" for one in row["unfinished"]))
                )
                or "nothing"
            )
            print(
                (
                    f"{number}/{len(futures)} {row['network']}: {row['kind']} {row['name']}: "
                    f"{said} ({row['seconds']:.0f} s)"
                ),
                file=sys.stderr,
            )
