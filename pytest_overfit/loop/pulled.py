"""Training that calls back, as a Trainer's, turned into training that is asked for its next
step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

StepDone = Callable[[float], None]
"""Called by the training after each optimiser step with the loss it took the step on."""


class Stopped(BaseException):
    """Raised inside a training to end it; not an Exception, so that no training takes it for a
    failure of its own.
    """


def pulled(
    run: Callable[[StepDone], None],
    *,
    during: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[float]:
    """The losses of `run(step_done)`, one an optimiser step, each given when it is asked for.

    The training has a thread of its own and never runs while the caller does: between two losses it
    stands still in `step_done`. during: entered around each stretch of training, as for what it
    warns of. What the training raises is raised here. Closing the iterator ends the training.
    """
    training = _Pulled(run)
    try:
        while True:
            with during():
                loss = training.next()
            if loss is None:
                return
            yield loss
    finally:
        with during():
            training.stop()


class _Pulled:
    """One training and the two signals between its thread and the caller's."""

    def __init__(self, run: Callable[[StepDone], None]) -> None:
        self._run = run
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._loss: float | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)

    def next(self) -> float | None:
        """The loss of one more step; None where the training is over."""
        if self._thread.ident is None:
            self._thread.start()
        elif not self._thread.is_alive():
            return None
        else:
            self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._loss

    def stop(self) -> None:
        """End the training where it stands."""
        self._stopping = True
        if self._thread.is_alive():
            self._go.release()
            self._thread.join()

    def _train(self) -> None:
        try:
            self._run(self._step_done)
        except Stopped:
            pass
        except BaseException as error:
            self._error = error
        self._loss = None
        self._done.release()

    def _step_done(self, loss: float) -> None:
        if not self._stopping:
            self._loss = loss
            self._done.release()
            self._go.acquire()
        if self._stopping:
            raise Stopped
