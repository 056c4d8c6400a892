"""`python -m examination verdicts`: is the verdict of a sound network the same with every
seed and on every machine?

Each rung of each sound subject is climbed with several seeds, each as on several machines: under
every set of instructions that this one can stand in for, with the weights as they are and off by
one part in a million. No fallback on other seeds: each run has one. A results file holds a line a
verdict, so that a measurement that was cut off goes on; verdicts are taken seed by seed, so that
one cut short has seen every subject.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examination.results import Job, append_row, read_rows
from tests.portability.child import sitecustomize

if TYPE_CHECKING:
    from pytest_overfit.subject import Subject

ONE_RUNG = ("3 x 128 bilstm", "8 x 256 post-norm transformer")
"""Climbed at one sample, where the plateau is: their other rungs take minutes each."""


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    jobs = jobs_of(
        options.subjects.split(","),
        [int(samples) for samples in options.rungs.split(",")],
        options.seeds,
        options.jitters,
        options.capabilities.split(","),
    )
    done = read_rows(options.results)
    ends = time.monotonic() + 60 * options.minutes
    for variant, group in groupby(
        (job for job in jobs if job not in done), key=lambda job: (job[3], job[1])
    ):
        if time.monotonic() > ends:
            break
        for row in climbed(variant[1], list(group)):
            append_row(options.results, row)
    rows = read_rows(options.results)
    print("\n".join(told([rows[job] for job in jobs if job in rows], len(jobs))))
    return 1 if any(row["status"] != "ok" for job, row in rows.items() if job in jobs) else 0


def jobs_of(
    subjects: Sequence[str],
    rungs: Sequence[int],
    seeds: int,
    jitters: int,
    capabilities: Sequence[str],
) -> list[Job]:
    """One job a rung, subject, seed and machine, whose name is that of the instructions and of the
    jitter: `avx2 1`; jitter 0 is none.
    """
    known = sound_subjects()
    if unknown := [name for name in subjects if name not in known]:
        raise SystemExit(f"no sound subject is called {unknown[0]!r}; there are {', '.join(known)}")
    machines = [
        f"{capability} {jitter}" for jitter in range(jitters + 1) for capability in capabilities
    ]
    return [
        (f"rung {samples}", machine, name, seed)
        for seed in range(seeds)
        for machine in machines
        for samples in rungs
        for name in subjects
        if samples == 1 or name not in ONE_RUNG
    ]


def climbed(machine: str, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """The rows of jobs on one machine, each as soon as it is done, from a process of its own:
    instructions are chosen when torch starts.
    """
    from tests.portability.__main__ import LIBRARIES

    capability, _, jitter = machine.partition(" ")
    path = os.pathsep.join(
        (
            os.environ.get("PYTHONPATH", ""),
            str(Path.cwd()),
            str(Path(sitecustomize.__file__).parent),
        )
    )
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": capability,
        **LIBRARIES[capability],
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
    }
    if jitter != "0":
        environment[sitecustomize.JITTER] = jitter
    command = [sys.executable, "-m", "examination.verdicts", json.dumps(jobs)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(
            f"{machine}: the process that climbs ended with status {process.returncode}"
        )


def told(rows: Sequence[dict[str, Any]], planned: int) -> list[str]:
    """The count, the bound that it allows, and each verdict that was wrong."""
    wrong = [
        f"{row['name']}, seed {row['seed']}, {row['network']}: broken at {row['kind']}"
        for row in rows
        if row["status"] != "ok"
    ]
    cells: dict[tuple[str, int, str], set[str]] = {}
    for row in rows:
        cells.setdefault((row["name"], row["seed"], row["kind"]), set()).add(row["status"])
    flips = sum(len(statuses) > 1 for statuses in cells.values())
    machines, subjects, seeds = (
        len({row[field] for row in rows}) for field in ("network", "name", "seed")
    )
    detours, astray = (sum(row.get(field, False) for row in rows) for field in ("detour", "astray"))
    lines = [
        (
            f"{len(rows)} of {planned} verdicts: {subjects} sound subjects, {seeds} seeds, "
            f"{machines} machines; {detours} by a detour; {astray} whose own rate ran away or crawled"
        ),
        f"{len(wrong)} called broken{upper_bound(len(wrong), len(rows))}",
        (
            f"{flips} of {len(cells)} rungs with a seed were judged otherwise on another "
            f"machine{upper_bound(flips, len(cells))}"
        ),
    ]
    return lines + wrong


def upper_bound(seen: int, among: int) -> str:
    """The rule of three: of events never seen in n trials, the rate is below 3 / n with 95 %
    confidence.
    """
    return f" (rate below {3 / among:.2%} with 95 % confidence)" if among and not seen else ""


def climb(jobs: Iterable[Job]) -> None:
    """In a process of one machine: print a row a job."""
    import torch

    from pytest_overfit.climb.ladder import Ended, Rung, criteria_for
    from pytest_overfit.host import flushed_denormals
    from pytest_overfit.recipe import default_recipe

    torch.set_num_threads(1)
    made = sound_subjects()
    for kind, machine, name, seed in jobs:
        began, samples = time.monotonic(), int(kind.split()[1])
        rung = Rung(
            subject=made[name](),
            samples=samples,
            recipe=default_recipe(samples),
            criteria=criteria_for(samples),
            seeds=(seed,),
        )
        with flushed_denormals():
            outcome = rung.climb()
        row = {
            "kind": kind,
            "network": machine,
            "name": name,
            "seed": seed,
            "status": outcome.status,
            "detour": outcome.status == "ok" and outcome.telling.detour is not None,
            "steps": outcome.steps,
            "astray": outcome.attempts[0].ended in (Ended.RAN_AWAY, Ended.CRAWLED),
            "seconds": round(time.monotonic() - began, 1),
        }
        print(json.dumps(row), flush=True)


def sound_subjects() -> dict[str, Callable[[], Subject]]:
    """Name -> a sound subject; those that climb fast first."""
    from examination import others
    from examination.hosts import HOSTS
    from tests.engine.foreign import FOREIGN
    from tests.engine.foreign_subjects import SUBJECTS
    from tests.engine.subjects import HEALTHY

    shapes = (others.conformer, others.crnn, others.crnn_without_norm)
    deep = (others.deep_bilstm, others.post_norm_transformer)
    return {
        **HEALTHY,
        **{f"foreign {name}": make for name, make in FOREIGN.items()},
        **{f"foreign {one.name}": lambda one=one: one for one in SUBJECTS},
        **{make().name: make for make in shapes},
        **{name: HOSTS[name].make for name in ("mobilenetv3", "i3d_teacher")},
        **{make().name: make for make in deep},
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    from tests.portability.__main__ import capabilities

    parser = argparse.ArgumentParser(prog="python -m examination verdicts", description=__doc__)
    parser.add_argument(
        "--subjects", default=",".join(sound_subjects()), help="some of %(default)s"
    )
    parser.add_argument("--rungs", default="1,2,5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jitters", type=int, default=3, help="besides the weights as they are")
    parser.add_argument(
        "--capabilities",
        default=",".join(capabilities()),
        help="some of default, avx2, avx512 (default: those of this machine, %(default)s)",
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no machine after so long"
    )
    parser.add_argument("--results", type=Path, default=Path("logs/verdicts.jsonl"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    climb(tuple(job) for job in json.loads(sys.argv[1]))
