"""One run of a script under watch, asked for its next optimiser step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pytest_overfit.loop.loop import seed_everything
from pytest_overfit.loop.pulled import StepDone, pulled
from pytest_overfit.loop.script.loaders import Cut, Kind, cut_loaders
from pytest_overfit.loop.script.process import Script, Surroundings
from pytest_overfit.loop.script.watching import Call, Ctc, Watcher, calls_watched


def steps_of(
    script: Script, cut: Cut, watcher: Watcher, *, seed: int
) -> Generator[float, None, None]:
    """The CTC loss of each optimiser step of a run; a step is told when the next batch is drawn,
    with all that followed it.
    """
    run = _Run(script, cut, watcher, seed)
    try:
        yield from pulled(run.train, during=run.during)
    finally:
        run.surroundings.forget_modules()


class _Run(Watcher):
    def __init__(self, script: Script, cut: Cut, watcher: Watcher, seed: int) -> None:
        self.surroundings, self.cut, self.watcher, self.seed = (
            Surroundings(script),
            cut,
            watcher,
            seed,
        )
        self.pending, self.loss = False, math.nan
        self._tell: StepDone = lambda _: None

    def train(self, step_done: StepDone) -> None:
        """The script from its first line to its last."""
        self._tell = step_done
        seed_everything(self.seed)
        self.surroundings.run()
        self._turn()

    @contextmanager
    def during(self) -> Iterator[None]:
        """Entered around each stretch of the script."""
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("default")  # what a test makes of warnings is no part of it
            stack.enter_context(self.surroundings.entered())
            stack.enter_context(cut_loaders(self.cut, self.drawn, self.watcher.built))
            stack.enter_context(calls_watched(self))
            stack.callback(register_optimizer_step_post_hook(self._stepped).remove)
            yield

    def drawn(self, kind: Kind, indices: Sequence[int]) -> None:
        """Tell of the step before, then of the batch."""
        if not torch.is_grad_enabled():  # to look at, even by a loader like the one trained on
            return
        if self.cut.training in (None, kind):
            self._turn()
        self.watcher.drawn(kind, indices)

    def _stepped(self, *_: Any) -> None:
        self.pending = True

    def began(self, network: nn.Module) -> None:
        """As of `Watcher`."""
        self.watcher.began(network)

    def passed(self) -> None:
        """As of `Watcher`."""
        self.watcher.passed()

    def called(self, call: Call) -> None:
        """As of `Watcher`."""
        self.watcher.called(call)

    def ctc(self, ctc: Ctc) -> None:
        """Keep the value of the loss."""
        self.loss = ctc.value
        self.watcher.ctc(ctc)

    def _turn(self) -> None:
        if self.pending:
            self.pending = False
            self._tell(self.loss)
