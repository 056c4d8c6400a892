"""What a rival is given: a subject's network as the kind of module that its documentation speaks
of, with its loss, optimiser and a padded batch.

A rival asks for a module over tensors with the batch first. So the network takes features (batch,
frames, dim) and a mask (batch, frames) with ones on a clip's own frames, as attention masks are,
and gives steps with log-probabilities (batch, frames, vocabulary), uniform past a clip's last.
Nothing of ours is checked on the way: what the planted code raises, or lets through, is what the
rival sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from examination.hosts import raw
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Batch, Subject
from pytest_overfit.training import default_loss, keep_up_norms, make_optimizer, smoothing

CLIPS = 5
Output = tuple[Tensor, Tensor]


class Network(nn.Module):
    """A subject's network: features (batch, frames, dim), mask (batch, frames) -> log-probabilities
    (batch, frames, vocabulary), steps (batch,).
    """

    def __init__(self, subject: Subject, recipe: Recipe, dim: int) -> None:
        super().__init__()
        self.inner = subject.fresh(feature_dim=dim, seed=0, network=recipe.network)
        keep_up_norms(self.inner, recipe.norm_momentum)
        self._made_of = (subject, recipe, dim)

    def forward(self, features: Tensor, mask: Tensor) -> Output:
        subject = self._made_of[0]
        output, steps = subject.forward(self.inner, features, mask.sum(1))
        output = output if subject.layout == "BTV" else output.transpose(0, 1)
        output = output.log_softmax(-1) if subject.outputs == "logits" else output
        output = F.pad(output, (0, 0, 0, max(features.shape[1] - output.shape[1], 0)))
        inside = torch.arange(output.shape[1]) < steps[:, None]
        return output.where(inside[..., None], -torch.tensor(float(output.shape[-1])).log()), steps

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        """Built anew and given the same state: hooks of planted faults hold on to the network they
        were planted in.
        """
        with torch.random.fork_rng(devices=()):
            copy = Network(*self._made_of)
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)


class OneOutput(nn.Module):
    """The same for a rival whose modules return one tensor; without a mask, the silence behind a
    shorter clip counts as its frames.

    steps: where the steps of the last call are put.
    """

    def __init__(self, network: Network, steps: list[Tensor]) -> None:
        super().__init__()
        self.network = network
        self._steps = steps

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        returned: Output = self.network(
            features, torch.ones(features.shape[:2], dtype=torch.int64) if mask is None else mask
        )
        self._steps[:] = [returned[1]]
        return returned[0]


class Given:
    """One subject with the recipe it would be trained with, for one check.

    features: (clips, frames, dim). mask: (clips, frames) int64. targets: (clips, tokens) padded
    with -1.
    """

    def __init__(self, subject: Subject, recipe: Recipe) -> None:
        samples = list(raw(subject, CLIPS))
        self.subject, self.recipe = subject, recipe
        self.vocabulary = len(subject.vocabulary)
        self.features = pad_sequence([sample.features for sample in samples], batch_first=True)
        self.mask = pad_sequence(
            [torch.ones(len(sample.features), dtype=torch.int64) for sample in samples],
            batch_first=True,
        )
        self.targets = pad_sequence(
            [sample.target.long() for sample in samples], batch_first=True, padding_value=-1
        )

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        return self.features, self.mask

    @property
    def named(self) -> dict[str, Tensor]:
        return {"features": self.features, "mask": self.mask}

    @cached_property
    def network(self) -> Network:
        return self.fresh()

    def fresh(self) -> Network:
        return Network(self.subject, self.recipe, self.features.shape[-1])

    def loss(self, output: Output, targets: Tensor | None = None) -> Tensor:
        """The loss that is trained on. Scalar."""
        targets = self.targets if targets is None else targets
        log_probs, steps, lengths = output[0].transpose(0, 1), output[1], (targets >= 0).sum(1)
        batch = Batch(
            names=(), features=self.features, frames=steps, targets=targets, target_lengths=lengths
        )
        if self.subject.loss is None:
            loss = default_loss(log_probs, batch, steps, self.recipe, self.subject.blank)
        else:
            loss = self.subject.loss(log_probs, steps, targets, lengths)
        weight = self.recipe.label_smoothing
        return (
            loss
            if not weight
            else (1 - weight) * loss + weight * smoothing(log_probs, batch, steps, self.recipe)
        )

    def with_one_output(self) -> tuple[Callable[[], OneOutput], Callable[[Tensor, Tensor], Tensor]]:
        """A factory of networks that return one tensor, and the loss of the one that ran last."""
        steps: list[Tensor] = []
        return lambda: OneOutput(self.fresh(), steps), lambda output, targets: self.loss(
            (output, steps[-1]), targets
        )

    def optimizer(self, network: Network) -> torch.optim.Optimizer:
        return make_optimizer(network.inner, self.subject, self.recipe)

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The same optimiser over the parameters that require a gradient in a rival's own copy of
        the network.
        """
        trained = {name for name, _ in self.subject.trainable(self.network.inner)}
        names = [
            name
            for name, parameter in self.network.inner.named_parameters()
            if parameter.requires_grad
        ]
        copies = [
            (name, copy) for name, copy in zip(names, parameters, strict=True) if name in trained
        ]
        return make_optimizer(
            self.network.inner, replace(self.subject, trainable=lambda _: copies), self.recipe
        )
