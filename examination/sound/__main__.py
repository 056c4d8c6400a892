"""`python -m examination.sound`: contracts, rungs 1 and 5 and diagnoses of sound networks of the
field, none of which may fail.

A results file holds a line a network, so that an examination that was cut off goes on. Without
`--aside` those that were kept aside are left alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from examination.sound.catalogue import SOUND
from examination.verdicts import upper_bound

Job = tuple[str, int]


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    chosen = (
        options.names.split(",")
        if options.names
        else [name for name, one in SOUND.items() if options.aside or not one.aside]
    )
    if unknown := [name for name in chosen if name not in SOUND]:
        raise SystemExit(f"no sound network is called {unknown[0]!r}; there are {', '.join(SOUND)}")
    jobs: list[Job] = [(name, seed) for seed in range(options.seeds) for name in chosen]
    done = {} if options.fresh else read(options.results)
    if options.workers:
        run([job for job in jobs if job not in done], options.results, options.workers)
    known = read(options.results)
    rows = [known[job] for job in jobs if job in known]
    print("\n".join(told(rows)))
    return 1 if any(row["failures"] or row["error"] for row in rows) else 0


def run(jobs: Sequence[Job], results: Path, workers: int) -> None:
    """Examine in processes of one thread each; every row is written as soon as it is done."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, initializer=_alone) as pool:
        for future in as_completed([pool.submit(do, job) for job in jobs]):
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(future.result()) + "\n")


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def do(job: Job) -> dict[str, Any]:
    """The row of one network."""
    from examination.sound.examine import examine

    name, seed = job
    return examine(SOUND[name], seed).to_json()


def read(results: Path) -> dict[Job, dict[str, Any]]:
    """The newest row of each network."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {(row["name"], row["seed"]): row for row in map(json.loads, lines)}


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was said of each network of which anything was, and the counts, with the bound that they
    allow.
    """
    lines = []
    for row in rows:
        for kind in ("failures", "warnings"):
            lines += [
                f"{row['name']}, seed {row['seed']}: {kind[:-1]}: {text}" for text in row[kind]
            ]
        lines += (
            [f"{row['name']}, seed {row['seed']}: raised {row['error'].strip().splitlines()[-1]}"]
            if row["error"]
            else []
        )
    for title, among in (
        ("seen", [row for row in rows if not row["aside"]]),
        ("kept aside", [row for row in rows if row["aside"]]),
        ("all", list(rows)),
    ):
        failed, warned = (
            sum(bool(row[kind] or (kind == "failures" and row["error"])) for row in among)
            for kind in ("failures", "warnings")
        )
        names, rungs = len({row["name"] for row in among}), sum(len(row["rungs"]) for row in among)
        lines.append(
            f"{title}: {names} networks, {rungs} rungs: {failed} "
            f"failed{upper_bound(failed, len(among))}, {warned} warned of"
        )
    return lines


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examination.sound", description=__doc__)
    parser.add_argument("--names", help="of some networks")
    parser.add_argument("--aside", action="store_true", help="those that were kept aside as well")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="0 examines nothing, and tells of what the results file holds",
    )
    parser.add_argument("--fresh", action="store_true", help="do again what the results file holds")
    parser.add_argument("--results", type=Path, default=Path("logs/sound.jsonl"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
