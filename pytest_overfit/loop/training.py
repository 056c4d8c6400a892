"""Drives a loop as the ladder drives ours: one optimiser step at a time, read in eval mode between
them, and stopped at any.
"""

from __future__ import annotations

import math
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from pytest_overfit.loop.loop import Loop, Part, modes_of, put_back, seed_everything
from pytest_overfit.loop.recorder import Event, gradient_norm, is_users, place, recording
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import BadSubject, Batch, Sample, Subject, collate
from pytest_overfit.training import NonFiniteLoss, Trace, Training

DRAWN = 50
"""Batches without a step after which a loop takes none, or two of its epochs, if they are longer.
"""


PATIENCE = 2
"""Times the steps that our own training is given, for one whose rate was chosen for a corpus."""


class LoopFailed(RuntimeError):
    """The loop raised, or takes no step. where: `file:line` of the user's frame.

    part: of the loop, where the error was raised in what torch has of it.
    """

    def __init__(
        self,
        message: str,
        *,
        step: int,
        where: str | None,
        stepless: bool = False,
        part: Part | None = None,
    ) -> None:
        super().__init__(message)
        self.step, self.where, self.stepless, self.part = step, where, stepless, part


RAISED_IN: Mapping[str, Part] = {
    "lr_scheduler": "scheduler",
    "grad_scaler": "precision",
    "autocast_mode": "precision",
    "clip_grad": "clip",
    f"{os.sep}optim{os.sep}": "optimiser",
    f"utils{os.sep}data": "batches",
}
"""Files of torch -> the part of a loop that they are of."""


class _NoStep(BaseException):
    """Raised into a loop that draws batches without an end; no Exception, so that none takes it for
    a failure of a batch.
    """


class LoopTraining(Training):
    """A fresh network trained by the subject's own loop. Attributes and readings as those of
    `Training`; `ended` says why a loop is over.

    on_event: called with every event while the loop's code runs.
    """

    def __init__(
        self,
        subject: Subject,
        samples: Sequence[Sample],
        recipe: Recipe,
        *,
        seed: int,
        device: str | torch.device = "cpu",
        size: str | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        if not isinstance(subject.loop, Loop):
            raise BadSubject(
                f"subject {subject.name}: loop must be a Loop(train=..., loader=...), got a "
                f"{type(subject.loop).__name__}"
            )
        self.subject, self.samples, self.recipe, self.size, self.device = (
            subject,
            samples,
            recipe,
            size,
            torch.device(device),
        )
        self.network = subject.fresh(
            feature_dim=samples[0].features.shape[1], seed=seed, size=size, network=recipe.network
        ).to(self.device)
        self.parameters = list(self.network.parameters())
        self.order = torch.Generator().manual_seed(seed)
        self.trace, self.step, self.paths, self.ended = Trace(), 0, [], None
        self._read_as = None
        self._hold(samples)
        self._on_event, self._exchanged, self.seed = (
            on_event,
            subject.loop.exchange(self) if subject.loop.exchange else None,
            seed,
        )
        self.drawn: list[int] = []
        """Samples of the batch drawn last."""
        self._since_step = 0
        self._patience = max(DRAWN, 2 * len(subject.loop.loader))
        self._norm, self._rate = math.nan, math.nan
        self._inside: Settings | None = None
        self._losses: Iterator[float] | None = None

    def afresh(self) -> LoopTraining:
        """The same training before its first step."""
        return LoopTraining(
            self.subject,
            self.samples,
            self.recipe,
            seed=self.seed,
            device=self.device,
            size=self.size,
        )

    def advance(self, steps: int) -> Iterator[float]:
        """Let the loop take up to `steps` steps; yields its loss after each.

        Raises NonFiniteLoss and LoopFailed.
        """
        for _ in range(steps):
            loss = self._next()
            if loss is None:
                self.ended = f"the loop ended after {self.step} steps"
                return
            self._since_step = 0
            if not math.isfinite(loss):
                raise NonFiniteLoss(step=self.step, value=loss)
            self.step += 1
            self.trace.losses.append(loss)
            self.trace.gradient_norms.append(self._norm if math.isfinite(self._norm) else 0.0)
            self.trace.lrs.append(self._rate)
            yield loss

    def close(self) -> None:
        """End the loop where it stands."""
        if hasattr(self._losses, "close"):
            with self._running():
                self._losses.close()  # type: ignore[union-attr]
        self._losses = None

    def _next(self) -> float | None:
        try:
            with self._running():
                if self._losses is None:
                    assert self.subject.loop is not None
                    self._losses = iter(
                        self.subject.loop.train(
                            self.network,
                            self.subject.loop.batches(len(self.samples), self._note_batch),
                        )
                    )
                loss = next(self._losses, None)
            return None if loss is None else float(loss)
        except _NoStep:
            message = f"your loop drew {self._patience} batches and took no optimiser step" + (
                f" after step {self.step}" if self.step else ""
            )
            raise LoopFailed(message, step=self.step, where=None, stepless=True) from None
        except BadSubject:  # what it was made with, and not what its code does
            raise
        except Exception as error:  # whatever the user's code raises
            text = str(error).splitlines()[0] if str(error) else ""
            raise LoopFailed(
                f"your loop raises {type(error).__name__} at step {self.step}: {text}",
                step=self.step,
                where=_raised_at(error),
                part=_part_of(error, graded=self._inside is None or self._inside[1]),
            ) from error

    @contextmanager
    def _running(self) -> Iterator[None]:
        """While the loop's code runs: its own random numbers and settings of torch, our ears, the
        parts exchanged.
        """
        outside = _settings()
        if self._inside is None:
            seed_everything(self.seed)
        else:
            _set(self._inside)
        try:
            with (
                warnings.catch_warnings(),
                recording(self.network, self._note),
                self._exchanged.during() if self._exchanged else nullcontext(),
            ):
                warnings.simplefilter(
                    "default"
                )  # what a test makes of warnings is no part of the loop
                yield
        finally:
            self._inside = _settings()
            _set(outside)

    def _note(self, event: Event) -> None:
        if event.kind == "before_step":
            groups = event.of.param_groups
            self._rate, self._norm = (
                float(groups[0]["lr"]),
                gradient_norm([parameter for group in groups for parameter in group["params"]]),
            )
        if self._exchanged:
            self._exchanged.on_event(event)
        self._on_event(event)

    def _note_batch(self, indices: Sequence[int]) -> None:
        self.drawn = list(indices)
        self._since_step += 1
        if self._since_step > self._patience:
            raise _NoStep
        self._on_event(Event(kind="batch", of=list(indices)))

    def loss_of_drawn(self) -> Tensor:
        """The subject's own loss on the samples of the batch drawn last, by the network as it
        stands. Scalar.
        """
        return self.loss(collate([self.samples[index] for index in self.drawn]).to(self.device))

    def outputs(self) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """As `Training.outputs`; the modes that the loop had set are as it left them."""
        modes = modes_of(self.network)
        try:
            yield from super().outputs()
        finally:
            put_back(modes)


Settings = tuple[Tensor, bool, torch.dtype]


def _settings() -> Settings:
    """What holds for the whole of torch: its generator, whether gradients are kept, the default
    type.
    """
    return torch.random.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()


def _set(settings: Settings) -> None:
    random, graded, dtype = settings
    torch.random.set_rng_state(random)
    torch.set_grad_enabled(graded)
    torch.set_default_dtype(dtype)


def recipe_of_loop(recipe: Recipe, loop: Loop) -> Recipe:
    """The budget for a loop: PATIENCE times ours, since its rate is its own and no other is
    tried.
    """
    return replace(
        recipe,
        own=True,
        fallbacks=(),
        batch=loop.loader.batch_size,
        accumulation=1,
        budget=PATIENCE * recipe.budget,
    )


def _raised_at(error: BaseException) -> str | None:
    """`file:line` of the innermost frame of the traceback that is the user's."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)
    ]
    return place(frames[-1].filename, frames[-1].lineno or 0) if frames else None


def _part_of(error: BaseException, *, graded: bool) -> Part | None:
    """The part of a loop that an error is of: of torch, behind the user's last line.

    graded: whether gradients were kept when it was raised.
    """
    if not graded and "does not require grad" in str(error):
        return "mode"
    if "argument #2 'targets'" in str(error) and "ctc_loss" in str(error):
        return "batches"
    frames = traceback.extract_tb(error.__traceback__)
    users = [place for place, frame in enumerate(frames) if is_users(frame.filename)]
    for frame in frames[users[-1] + 1 :] if users else frames:
        for name, part in RAISED_IN.items():
            if f"{os.sep}torch{os.sep}" in frame.filename and name in frame.filename:
                return part
    return None
