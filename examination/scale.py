"""`python -m examination.scale`: what rungs of hundreds of samples cost, in memory and in time.

Climbs what `pytest -m overfit --overfit-subject mobilenetv3 --overfit-rungs 100,200,500,1000` does,
each rung in a process of its own, so that its memory is its own, and prints a row for each: how it
ended, optimiser steps, clips trained on, CPU seconds of all, CPU milliseconds a clip trained on
(all included: making the samples, readings in eval mode), largest resident memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from dataclasses import dataclass

HEADING = "| samples | | steps | clips | CPU s | ms a clip | largest memory, MB |"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a rung cost. ended: "ok", "broken" or "cut off". seconds: of CPU. memory: in MB."""

    samples: int
    ended: str
    steps: int
    clips: int
    seconds: float
    memory: float

    def row(self) -> str:
        """A line of the table."""
        milliseconds = 1000 * self.seconds / self.clips
        return (
            f"| {self.samples} | {self.ended} | {self.steps} | {self.clips} | {self.seconds:.0f} | "
            f"{milliseconds:.1f} | {self.memory:.0f} |"
        )


def climb(samples: int, width: int, most: int | None) -> Cost:
    """Climb a rung, or its first `most` steps."""
    from model.subjects import mobilenetv3
    from pytest_overfit.climb.attempt import Progress
    from pytest_overfit.host import lent
    from pytest_overfit.plugin.settings import Settings

    class Enough(Exception):
        """As many steps as were asked for."""

    steps = 0

    def on_step(progress: Progress) -> None:
        nonlocal steps
        steps = progress.step
        if steps == most:
            raise Enough

    began = time.process_time()
    rung = Settings(changes={"network": {"hidden_dim": width}}).rung(mobilenetv3(), samples)
    try:
        with lent():
            outcome = rung.climb(on_step)
        ended, steps = outcome.status, sum(attempt.steps for attempt in outcome.attempts)
    except Enough:
        ended = "cut off"
    seconds = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    clips = steps * rung.recipe.batch_of(samples)
    return Cost(
        samples=samples,
        ended=ended,
        steps=steps,
        clips=clips,
        seconds=seconds,
        memory=memory,
    )


def main() -> None:
    """Climb the rungs that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m examination.scale", description=__doc__)
    parser.add_argument("--rungs", default="100,200,500,1000", help="to climb, one after another")
    parser.add_argument("--width", type=int, default=64, help="hidden_dim of the network")
    parser.add_argument("--steps", type=int, help="of each rung, where it need not come to an end")
    given = parser.parse_args()
    print(f"{HEADING}\n|{' --- |' * 7}", flush=True)
    for samples in map(int, given.rungs.split(",")):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cost = pool.apply(climb, (samples, given.width, given.steps))
        print(cost.row(), flush=True)


if __name__ == "__main__":
    main()
