"""`python -m examination.scale`: what hundreds of samples cost, in memory and in time.

Climbs what `pytest -m overfit --overfit-subject mobilenetv3 --overfit-rungs 100,200,500,1000` does,
each rung in a process of its own, so that its memory is its own, and prints a row for each: how it
ended, optimiser steps, clips trained on, CPU seconds of all, CPU milliseconds a clip trained on
(all included: making the samples, readings in eval mode), largest resident memory.

`--curriculum` trains for real instead, in one process, as `model.train --curriculum` does: 12
epochs with augmentation of each number of sentences, weights carried on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

EPOCHS = 12
"""Of each stage of a curriculum."""

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
    clips = steps * rung.recipe.batch_of(samples)
    return Cost(
        samples=samples,
        ended=ended,
        steps=steps,
        clips=clips,
        seconds=seconds,
        memory=largest_memory(),
    )


def largest_memory() -> float:
    """The largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def train(sentences: Sequence[int], width: int) -> None:
    """A curriculum, a row of the table as each stage ends."""
    from model.curriculum import Stage, curriculum
    from model.settings import parse

    began = time.process_time()

    def on_stage(stage: Stage) -> None:
        nonlocal began
        now = time.process_time()
        clips, best = EPOCHS * stage.samples, stage.result.best
        print(
            f"| {stage.samples} | {now - began:.0f} | {1000 * (now - began) / clips:.1f} | "
            f"{best['train_wer']:.1%} | {best['val_wer']:.1%} | {largest_memory():.0f} |",
            flush=True,
        )
        began = now

    print("| sentences | CPU s | ms a clip | train WER | WER on unseen | largest memory, MB |")
    print(f"|{' --- |' * 6}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        words = f"mobilenetv3 --hidden_dim {width} --epochs {EPOCHS} --augment --schedule cosine"
        scales = ["--curriculum", ",".join(map(str, sentences)), "--output_dir", folder]
        settings = parse([*words.split(), "--learning_rate", "0.002", *scales])
        curriculum(settings, on_stage=on_stage)


def main() -> None:
    """Climb the rungs that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m examination.scale", description=__doc__)
    parser.add_argument("--rungs", default="100,200,500,1000", help="to climb, one after another")
    parser.add_argument("--width", type=int, default=64, help="hidden_dim of the network")
    parser.add_argument("--steps", type=int, help="of each rung, where it need not come to an end")
    parser.add_argument("--curriculum", action="store_true", help="train for real instead")
    given = parser.parse_args()
    samples_of = [int(samples) for samples in given.rungs.split(",")]
    if given.curriculum:
        train(samples_of, given.width)
        return
    print(f"{HEADING}\n|{' --- |' * 7}", flush=True)
    for samples in samples_of:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cost = pool.apply(climb, (samples, given.width, given.steps))
        print(cost.row(), flush=True)


if __name__ == "__main__":
    main()
