"""`python -m examination.against`: climb with many seeds, and say how right and how dear the
comparisons of those climbs are.

Each course of a network, rung and seed is climbed once and noted in a results file, so that an
examination that was cut off goes on. Comparisons replay them, each with courses of its own, by
`climb_both` and `PairTest` as a session does: where a course stands at a step does not depend on
the other side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from examination.against import blame, figures
from examination.against.networks import PLANTED, SOUND_SUBJECTS
from pytest_overfit.against.course import Course, reading_steps
from pytest_overfit.climb.criteria import criteria_for
from pytest_overfit.host import lent
from pytest_overfit.recipe import default_recipe

Job = tuple[str, int, int]
MOST_STEPS = 800


def jobs(seeds: int, planted_seeds: int) -> Iterator[Job]:
    """Name, samples, seed: seed after seed, so that an early end has some of each."""
    for seed in range(seeds):
        for name in SOUND_SUBJECTS:
            yield from ((name, samples, seed) for samples in figures.RUNGS)
        if seed < planted_seeds:
            for name in PLANTED:
                yield from ((name, samples, seed) for samples in figures.RUNGS)


def climb(job: Job) -> dict[str, Any]:
    """One course to its end, or to where it would be cut off in any comparison."""
    name, samples, seed = job
    subject = (SOUND_SUBJECTS.get(name) or PLANTED[name][1])()
    recipe = subject.recipes.get(samples) or default_recipe(samples)
    course = Course(subject, subject.take(samples), recipe, criteria_for(samples), seed=seed)
    pieces = []
    for step in reading_steps():
        if step > MOST_STEPS:
            break
        pieces.append(course.advance(step))
        if pieces[-1].held or pieces[-1].ended:
            break
    readings = [(piece.step, piece.loss, piece.token_error_rate) for piece in pieces]
    last = pieces[-1]
    return {
        "name": name,
        "samples": samples,
        "seed": seed,
        "held": last.held,
        "ended": last.ended,
        "readings": readings,
    }


def read(results: Path) -> dict[Job, dict[str, Any]]:
    """The rows of a results file by their jobs."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    rows = map(json.loads, lines)
    return {(row["name"], row["samples"], row["seed"]): row for row in rows}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m examination.against", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "spread", "read", "blame"), default="all",
                        help="spread: of the seeds alone; read: of what the results file holds; "
                             "blame: whether the guilty change is found")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=32, help="of each sound network and rung")
    parser.add_argument("--planted-seeds", type=int, default=12)
    parser.add_argument("--results", type=Path, default=Path("logs/against.jsonl"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.what == "blame":
        with lent(1):
            for line in blame.figures(options.results.with_suffix(".blame.txt")):
                print(line)
        return 0
    if options.what != "read":
        options.results.parent.mkdir(parents=True, exist_ok=True)
        done = read(options.results)
        planted_seeds = 0 if options.what == "spread" else options.planted_seeds
        with lent(1), options.results.open("a", encoding="utf-8") as file:
            for job in jobs(options.seeds, planted_seeds):
                if job not in done:
                    file.write(json.dumps(climb(job)) + "\n")
                    file.flush()
    rows = read(options.results)
    print("\n".join(figures.spread(rows)))
    if options.what != "spread":
        print("\n".join([*figures.sound(rows), *figures.slowed(rows), *figures.planted(rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
