"""An exercise for losses: fixed outputs and targets that a loss is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pytest_overfit.findings.bench import Bench
from pytest_overfit.subject import Loss

STEPS, PADDED = 40, 48
"""Steps of each clip, and those of the output, which has some past its end."""
TARGETS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Exercise:
    """Fixed outputs and targets that a loss is tried on.

    Logits are wide, so that half precision shows.
    """

    loss: Loss
    vocabulary: int
    blank: int
    seed: int = 0
    padding: int | None = None
    """What stands past a target's end: a valid label, which must not be read, or -1, as in batches.
    """

    @cached_property
    def logits(self) -> Tensor:
        """(padded steps, clips, vocabulary)"""
        return 3 * torch.randn(
            PADDED, TARGETS, self.vocabulary, generator=torch.Generator().manual_seed(self.seed)
        )

    @cached_property
    def targets(self) -> list[list[int]]:
        """1 to 8 tokens, twice; those of 3 or more start with a repeat."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        labels = [label for label in range(self.vocabulary) if label != self.blank]
        targets = []
        for clip in range(TARGETS):
            target = [
                labels[i]
                for i in torch.randint(len(labels), (1 + clip % 8,), generator=generator).tolist()
            ]
            if len(target) > 2:
                target[1] = target[0]
            targets.append(target)
        return targets

    def other(self, label: int) -> int:
        """A label that is neither `label` nor the blank; `label` where there is none."""
        return next(
            (other for other in range(self.vocabulary) if other not in (label, self.blank)), label
        )

    @cached_property
    def log_probs(self) -> Tensor:
        """(padded steps, clips, vocabulary)"""
        return self.logits.log_softmax(-1)

    def of(
        self,
        log_probs: Tensor,
        targets: list[list[int]],
        steps: list[int],
        *,
        filler: int | None = None,
        spare: int = 1,
    ) -> Tensor:
        """The loss of clips. log_probs: (steps, batch, vocabulary).

        spare: places past the longest target.
        """
        width = max(map(len, targets)) + spare
        filler = self.padding if filler is None else filler
        filler = self.other(self.blank) if filler is None else filler
        rows = torch.tensor([[*target, *[filler] * (width - len(target))] for target in targets])
        return self.loss(
            log_probs, torch.tensor(steps), rows, torch.tensor([len(target) for target in targets])
        )

    def one(
        self,
        clip: int,
        *,
        target: list[int] | None = None,
        filler: int | None = None,
        log_probs: Tensor | None = None,
    ) -> float:
        """The loss of one clip, on the first clip's output unless `log_probs` (padded steps,
        vocabulary) are given.
        """
        output = self.log_probs[:, 0] if log_probs is None else log_probs
        return float(
            self.of(
                output[:, None],
                [self.targets[clip] if target is None else target],
                [STEPS],
                filler=filler,
            )
        )

    def gradient(
        self, logits: Tensor, targets: list[list[int]], steps: list[int], *, spare: int = 1
    ) -> Tensor:
        """d loss / d logits, of the logits' shape; zeros where the loss has no gradient."""
        leaf = logits.clone().requires_grad_()
        loss = self.of(leaf.log_softmax(-1), targets, steps, spare=spare)
        if not loss.requires_grad:
            return torch.zeros_like(logits)
        loss.backward()
        return torch.zeros_like(logits) if leaf.grad is None else leaf.grad


def exercise(bench: Bench, *, blank: int | None = None) -> Exercise:
    """The bench's loss, with an output to try it on.

    blank: that of the subject where none is given.
    """
    return Exercise(
        loss=bench.loss,
        vocabulary=bench.vocabulary,
        blank=bench.subject.blank if blank is None else blank,
        seed=bench.seed,
    )
