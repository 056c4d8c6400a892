"""`python -m examination`: plant every fault and every sound change, and write what the tool
said of them.

python -m examination explaining: how long a broken rung takes to be explained, beside a sound climb.
python -m examination export-clips FILE [--n 10]: write clips for machines that lack the
recordings.
python -m examination real-logs DIR: what the health report says of real logs with an expert's
labels.
python -m examination rivals: what other tools say of the same faults, for the same file.
python -m examination verdicts: whether sound subjects get one verdict with every seed and on
every machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examination import explaining, verdicts
from examination.hosts import HOSTS, export_clips
from examination.matrix import write_matrix
from examination.planted import faults_for
from examination.results import Job, append_row, forget, read_rows
from examination.trial_of_faults import Row, examine_fault
from examination.trial_of_sound import SOUND_SUBJECTS, examine_sound

RIVALS = Path("logs/rivals.md")


def main() -> int:
    if sys.argv[1:2] == ["export-clips"]:
        return _export(sys.argv[2:])
    if sys.argv[1:2] == ["real-logs"]:
        from examination import real_logs

        return real_logs.main(sys.argv[2:])
    if sys.argv[1:2] == ["rivals"]:
        return _rivals()
    if sys.argv[1:2] == ["explaining"]:
        return explaining.main(sys.argv[2:])
    if sys.argv[1:2] == ["verdicts"]:
        return verdicts.main(sys.argv[2:])
    options = _options()
    networks = options.networks.split(",")
    unknown = [network for network in networks if network not in (*HOSTS, "sound")]
    if unknown:
        sys.exit(f"no network is called {unknown[0]!r}; there are {', '.join(HOSTS)}, and sound")
    jobs = jobs_of(
        networks,
        options.faults.split(",") if options.faults else None,
        1 if options.quick else options.seeds,
    )
    if options.fresh:
        forget(options.results, jobs)
    done = read_rows(options.results)
    left = [job for job in jobs if job not in done]
    if left:
        run(left, options.results, options.workers, options.clips)
    rows = read_rows(options.results)
    if not options.faults:
        write_matrix(
            options.matrix,
            list(rows.values()),
            RIVALS.read_text(encoding="utf-8") if RIVALS.exists() else "",
        )
    if options.workers == 1 or options.faults:
        for job in jobs:
            _tell(rows[job])
    missed = [job for job in jobs if job in rows and not _good(rows[job])]
    print(
        f"{len(jobs)} jobs, {len(missed)} with something missed or alarmed: "
        f"{', '.join(f'{job[1]}/{job[2]}' for job in missed)}"
    )
    return 0


def jobs_of(networks: list[str], names: list[str] | None, seeds: int) -> list[Job]:
    jobs: list[Job] = [
        ("fault", host, fault.name, 0)
        for host in networks
        if host in HOSTS
        for fault in faults_for(HOSTS[host])
    ]
    if "sound" in networks:
        jobs += [("sound", "sound", name, seed) for seed in range(seeds) for name in SOUND_SUBJECTS]
    return [job for job in jobs if names is None or job[2] in names]


def run(jobs: list[Job], results: Path, workers: int, clips: Path | None) -> None:
    """Do jobs in processes of one thread each; every row is written as soon as it is done."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task("examination", total=len(jobs))
        with ProcessPoolExecutor(workers) as pool:
            for future in as_completed(pool.submit(do, job, clips) for job in jobs):
                row = future.result()
                append_row(results, row)
                progress.update(task, advance=1, description=f"{row['network']} {row['name']}")


def do(job: Job, clips: Path | None = None) -> dict[str, Any]:
    """One job's row; what the tool itself raises is a row too."""
    import torch

    torch.set_num_threads(1)
    kind, network, name, seed = job
    try:
        row = (
            examine_fault(network, name, seed, clips)
            if kind == "fault"
            else examine_sound(name, seed, clips)
        )
    except (
        Exception
    ):  # a crash of the tool is the worst of its answers, and the others are still wanted
        row = Row(kind=kind, network=network, name=name, seed=seed, error=traceback.format_exc())
    return row.to_json()


def _good(row: dict[str, Any]) -> bool:
    if row["error"]:
        return False
    if row["kind"] == "sound":
        return not row["alarms"]
    return row["expected"] == "-" or (
        row["right_first"] and row["right_module"] is not False and row["right_scale"]
    )


def _tell(row: dict[str, Any]) -> None:
    if row["kind"] == "sound":
        print(
            f"{row['name']} (seed {row['seed']}): {row['runs']} runs, alarms {row['alarms']}",
            row["error"] or "",
        )
        return
    found = list(zip(row["found"], row["modules"], strict=True))
    expected = f"expected {row['expected']} at {row['expected_module']}"
    print(
        f"{row['network']} {row['name']}: {row['where'] or 'MISSED'} ({row['seconds']:.0f} s), "
        f"{expected}"
    )
    print(f"    found {found}\n    trials {row['trials']}", row["error"] or "")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examination", description=__doc__)
    parser.add_argument(
        "--networks", default=",".join((*HOSTS, "sound")), help="some of %(default)s"
    )
    parser.add_argument(
        "--faults", help="names of faults or sound subjects; the matrix is then not written"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3, help="of sound subjects")
    parser.add_argument("--quick", action="store_true", help="one seed of sound subjects")
    parser.add_argument("--fresh", action="store_true", help="do again what the results file holds")
    parser.add_argument(
        "--clips", type=Path, help="an exported .npz in the place of the recordings"
    )
    parser.add_argument("--results", type=Path, default=Path("logs/examination.jsonl"))
    parser.add_argument("--matrix", type=Path, default=Path("docs/kill_matrix.md"))
    return parser.parse_args()


def _rivals() -> int:
    from examination.rivals import table

    RIVALS.parent.mkdir(parents=True, exist_ok=True)
    RIVALS.write_text(table(), encoding="utf-8")
    print(f"{RIVALS}; the next run of the examination puts it into the matrix")
    return 0


def _export(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m examination export-clips")
    parser.add_argument("file", type=Path)
    parser.add_argument("--n", type=int, default=10)
    options = parser.parse_args(arguments)
    export_clips(options.file, options.n)
    print(f"{options.n} clips in {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
