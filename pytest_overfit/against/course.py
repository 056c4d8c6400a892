"""One side's way up a rung: a fresh network of one seed, trained until its criteria hold, in pieces
that another side's can alternate with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from pytest_overfit.climb.criteria import Criterion
from pytest_overfit.loop.running import failed
from pytest_overfit.loop.training import LoopFailed, LoopTraining
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Sample, Subject, collate
from pytest_overfit.training import NonFiniteLoss, Training

FIRST_READING = 5
APART = 1.08
"""Steps of a reading over those of the one before: a ratio of steps is then known to 8 % wherever
it stands.
"""
LONG_ENOUGH = 0.05
"""Seconds that steps must take together to be timed: of fewer too much is not the steps'."""


def reading_steps() -> Iterator[int]:
    """The steps at which a course is read: 5, 6, 7, ... 12, 13, 15, 17, ..."""
    step = FIRST_READING
    while True:
        yield step
        step = math.ceil(step * APART)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a piece of a course came to. step: where it ended.

    step_seconds: of its steps on average; None where they were too short to be timed. loss: nats per
    target token, and token error rate, in eval mode at its end; None where it could not be read.
    held: the criteria do. ended: why there are no more steps.
    """

    step: int
    step_seconds: float | None
    loss: float | None
    token_error_rate: float | None
    held: bool
    ended: str | None = None

    def to_json(self) -> dict[str, object]:
        """Its fields, in plain types."""
        return asdict(self)


class Course:
    """A training under way, as `Training` is made. Its steps are timed, its readings are not."""

    def __init__(
        self,
        subject: Subject,
        samples: Sequence[Sample],
        recipe: Recipe,
        criteria: tuple[Criterion, ...],
        *,
        seed: int,
        device: str = "cpu",
        size: str | None = None,
    ) -> None:
        kind = Training if subject.loop is None else LoopTraining
        self.training = kind(subject, samples, recipe, seed=seed, device=device, size=size)
        self.criteria = criteria
        self.ended: str | None = None
        if self.training.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.training.device)

    def advance(self, to: int) -> Piece:
        """Train up to step `to`, then read.

        The first step of a training is not timed: it allocates.
        """
        training = self.training
        self._train(1 - training.step)
        began, before = self._clock(), training.step
        self._train(to - training.step)
        seconds, timed = self._clock() - began, training.step - before
        reading = None if self.ended else training.read()
        self.ended = self.ended or training.ended
        return Piece(
            step=training.step,
            step_seconds=seconds / timed if timed and seconds >= LONG_ENOUGH else None,
            loss=_finite(reading.loss) if reading else None,
            token_error_rate=_finite(reading.token_error_rate) if reading else None,
            held=reading is not None
            and all(criterion.judge(reading, training.trace).held for criterion in self.criteria),
            ended=self.ended,
        )

    def take(self, steps: int) -> dict[str, object]:
        """Train so many steps for their time alone, as `Timed` has it."""
        began = self._clock()
        self._train(steps)
        seconds, ended = self._clock() - began, self.ended or self.training.ended
        return {"seconds": seconds, "ended": ended}

    def _train(self, steps: int) -> None:
        try:
            for _ in self.training.advance(0 if self.ended else max(steps, 0)):
                pass
        except NonFiniteLoss as error:
            self.ended = str(error)
        except LoopFailed as error:
            self.ended = failed(error).headline

    def _clock(self) -> float:
        """Seconds: of this process on a CPU, where waiting for a busy core is no work; of the clock
        once a GPU is done.
        """
        if self.training.device.type == "cuda":
            torch.cuda.synchronize(self.training.device)
            return time.perf_counter()
        return time.process_time()

    def memory_bytes(self) -> int:
        """What a step needs. Taken at the end of a course: on a CPU it runs the network once more.

        On a GPU the peak that its allocator counted; on a CPU parameters, gradients, the
        optimiser's state and what autograd keeps from forward to backward: a count, the same on
        every machine.
        """
        training = self.training
        if training.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(training.device))
        parameters = list(training.network.parameters())
        optimizer = getattr(training, "optimizer", None)  # a loop has its own
        state = [
            value
            for row in (optimizer.state.values() if optimizer else ())
            for value in row.values()
            if isinstance(value, torch.Tensor)
        ]
        gradients = sum(p.nbytes for p in parameters if p.requires_grad)
        return (
            sum(p.nbytes for p in parameters)
            + gradients
            + sum(value.nbytes for value in state)
            + kept_bytes(training)
        )

    def close(self) -> None:
        """End a loop of the user's own, if it is one that trains."""
        self.training.close()


def kept_bytes(training: Training) -> int:
    """What autograd keeps of one batch from forward to backward, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in training.network.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    batch = collate(training.samples[: training.recipe.batch_of(len(training.samples))]).to(
        training.device
    )
    training.network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = training.loss(batch)
    del loss
    return sum(kept.values())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
