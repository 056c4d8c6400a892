"""What is learned of a script before it is judged: from one run in which every batch holds one clip
and itself.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from pytest_overfit.loop.pulled import Stopped
from pytest_overfit.loop.recorder import is_users, place
from pytest_overfit.loop.script.driving import steps_of
from pytest_overfit.loop.script.loaders import IN_THIS_PROCESS, Cut, Kind
from pytest_overfit.loop.script.process import CannotDrive, Script
from pytest_overfit.loop.script.reading import Clip, Output, Reading, clip_of, output_of
from pytest_overfit.loop.script.watching import Call, Ctc, Watcher

PATIENCE = 100
"""Batches without a CTC loss after which none is expected."""


class Survey(Watcher):
    """network: as it was before its first call.

    training: the kind of loader that is trained on; loader: the same uncut.
    """

    def __init__(self, script: Script, clips: int, seed: int) -> None:
        self.script, self.seed, self.wanted = script, seed, clips
        self.clips: list[Clip] = []
        self.output: Output | None = None
        self.network: nn.Module | None = None
        self.training: Kind | None = None
        self.blank, self.vocabulary = 0, 0
        self.loaders: dict[Kind, dict[str, Any]] = {}
        self._streamed = self._complete = False
        self._steps = self._batches = self._losses = 0
        self._current: tuple[Kind, int] | None = None
        self._calls: list[Call] = []
        self._waiting: Ctc | None = None
        self._run()
        self.reading = self._learned()

    def _run(self) -> None:
        with closing(
            steps_of(self.script, Cut(samples=self.wanted, twice=True), self, seed=self.seed)
        ) as steps:
            try:
                for _ in steps:
                    self._steps += 1
            except Stopped:
                pass
            except CannotDrive:
                raise
            except Exception as error:
                raise CannotDrive(
                    f"{self.script.path.name} cannot be driven: it raises {_error_words(error)}"
                ) from error

    def _learned(self) -> Reading:
        name = f"{self.script.path.name} cannot be driven"
        if not self.clips:
            raise CannotDrive(f"{name}: {self._why_nothing()}")
        if self._steps == 0 and len(self.clips) > 1:
            raise CannotDrive(f"{name}: it takes CTC losses and no step of a torch optimiser")
        assert self.output is not None
        try:
            return Reading(self.clips, self.output)
        except CannotDrive as error:
            raise CannotDrive(f"{name}: {error}") from error

    def _why_nothing(self) -> str:
        if self._batches and not self._losses:
            return (
                f"of {self._batches} batches that it drew none led to torch's CTC loss with a "
                "gradient"
            )
        if self._losses and self.loaders:
            return "what it trains on is drawn from no torch DataLoader, so it cannot be cut"
        if self._streamed:
            return "its Dataset is a stream (IterableDataset), which cannot be cut to some samples"
        if self.loaders:
            return "it builds DataLoaders and draws no batch from them"
        return "it builds no torch DataLoader, so its data cannot be cut"

    @property
    def loader(self) -> DataLoader[Any]:
        """The loader that is trained on, uncut, in this process."""
        assert self.training is not None
        return DataLoader(**{**self.loaders[self.training], **IN_THIS_PROCESS})

    def built(self, kind: Kind | None, given: Any) -> None:
        """Keep how each loader was built."""
        if kind is None:
            self._streamed = True
        else:
            self.loaders.setdefault(kind, dict(given))

    def drawn(self, kind: Kind, indices: Sequence[int]) -> None:
        """Keep which clip the batch holds; stop once all wanted are known."""
        known = {clip.index for clip in self.clips}
        if (
            len(known) >= self.wanted
            or (self.training == kind and indices[0] in known)
            or self._batches >= PATIENCE + 2 * self.wanted
        ):
            raise Stopped
        self._batches += 1
        self._current, self._calls = (kind, indices[0]), []

    def began(self, network: nn.Module) -> None:
        """Keep a copy of the network before its first call."""
        if self.network is not None:
            return
        try:
            self.network = copy.deepcopy(network)
        except Exception as error:  # of somebody's own class
            raise CannotDrive(
                f"{self.script.path.name} cannot be driven: its network cannot be copied: "
                f"{_error_words(error)}"
            ) from error

    def passed(self) -> None:
        """What was drawn is looked at, and not trained on."""
        self._current = None

    def called(self, call: Call) -> None:
        """Keep the call, and see a loss that the network took itself."""
        self._calls.append(call)
        if self._waiting is not None:
            ctc, self._waiting = self._waiting, None
            self._seen(call, ctc)

    def ctc(self, ctc: Ctc) -> None:
        """See the loss of the last call."""
        self._losses += 1
        if self._losses > PATIENCE + 20 * self.wanted:
            raise Stopped
        if ctc.inside:
            self._waiting = self._waiting or ctc
        elif self._calls:
            self._seen(self._calls[-1], ctc)

    def _seen(self, call: Call, ctc: Ctc) -> None:
        if self._current is None or (self.clips and self.clips[-1].index == self._current[1]):
            return
        kind, index = self._current
        name = f"{self.script.path.name} cannot be driven"
        networks = list(dict.fromkeys(type(one.network).__name__ for one in self._calls))
        if len({id(one.network) for one in self._calls}) > 1:
            raise CannotDrive(
                f"{name}: it calls {' and '.join(networks)} one after the other; put them into "
                "one module"
            )
        if self.output is None:
            try:
                self.output = output_of(call, ctc)
            except CannotDrive as error:
                raise CannotDrive(f"{name}: {error}") from error
            self.training, self.blank, self.vocabulary = kind, ctc.blank, ctc.log_probs.shape[-1]
        self.clips.append(clip_of(index, call, ctc))


def _error_words(error: BaseException) -> str:
    """An exception in one line, with the script's own."""
    text = str(error).strip().splitlines()
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)
    ]
    where = f" ({place(frames[-1].filename, frames[-1].lineno or 0)})" if frames else ""
    return f"{type(error).__name__}{f': {text[0]}' if text else ''}{where}"
