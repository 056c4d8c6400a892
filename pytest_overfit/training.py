"""The only training loop of the engine: `Training` takes optimiser steps, one at a time, and can be
read in eval mode between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW, Optimizer

from pytest_overfit import ctc, errors, measures
from pytest_overfit.recipe import BadRecipe, Recipe
from pytest_overfit.spilled import Spilled
from pytest_overfit.subject import BadSubject, Batch, Sample, Subject, collate

EVAL_BATCH = 32
RESIDENT_BYTES = 2 << 30
TORCH_NORM_MOMENTUM = 0.1


class NonFiniteLoss(ArithmeticError):
    """The training loss, or the norm of its gradient, is not a finite number."""

    def __init__(
        self, *, step: int, value: float, samples: tuple[str, ...] = (), what: str = "loss"
    ) -> None:
        self.step, self.value, self.samples = step, value, samples
        named = ", ".join(samples[:5]) + (
            f" and {len(samples) - 5} more" if len(samples) > 5 else ""
        )
        super().__init__(
            f"the {what} is {value} at step {step}" + (f" (samples {named})" if samples else "")
        )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A rung seen in eval mode. loss: nats per target token; the rest as in `measures`."""

    step: int
    loss: float
    token_error_rate: float
    exact_share: float
    nearest_target_share: float
    emission_ratio: float
    blank_share: float
    entropy_ratio: float
    normalisation_error: float


@dataclass(kw_only=True)
class Trace:
    """What training recorded.

    losses, gradient_norms, lrs: one an optimiser step, in train mode, the loss as the recipe
    reduces it.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Its fields, in plain types."""
        return asdict(self)


def default_loss(
    log_probs: Tensor, batch: Batch, steps: Tensor, recipe: Recipe, blank: int
) -> Tensor:
    """CTC over a batch: mean of nats per target token, or sum of nats, as `recipe.reduction` says.

    Scalar.
    """
    losses = ctc.clip_losses(log_probs, steps, batch.targets, batch.target_lengths, blank=blank)
    return (
        losses.sum()
        if recipe.reduction == "sum"
        else (losses / batch.target_lengths.clamp(min=1).to(losses)).mean()
    )


def smoothing(log_probs: Tensor, batch: Batch, steps: Tensor, recipe: Recipe) -> Tensor:
    """KL(uniform || output) over a batch, summed over steps and reduced as the loss is. Scalar.

    Source: Kim et al. 2017, arXiv 1711.02212.
    """
    divergence = -(log_probs.mean(-1) + math.log(log_probs.shape[-1]))
    inside = torch.arange(len(log_probs), device=log_probs.device)[:, None] < steps.to(
        log_probs.device
    )
    clips = (divergence * inside).sum(0)
    return (
        clips.sum()
        if recipe.reduction == "sum"
        else (clips / batch.target_lengths.clamp(min=1).to(clips)).mean()
    )


class Training:
    """A fresh network on a rung's samples, trained step by step.

    Attributes: network, optimizer, trace, targets, step (optimiser steps taken), ended (why there
    are no more), paths (of the clips, while they are followed). Same seed, threads and device: same run.
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
    ) -> None:
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
        keep_up_norms(self.network, recipe.norm_momentum)
        self.optimizer = make_optimizer(self.network, subject, recipe)
        self.parameters = [
            parameter for group in self.optimizer.param_groups for parameter in group["params"]
        ]
        self.order = torch.Generator().manual_seed(seed)
        self.trace = Trace()
        self.step = 0
        self.ended: str | None = None
        self.paths: list[Tensor] = []
        self._read_as: tuple[int, list[list[int]]] | None = None
        self._began = 0
        self._hold(samples)
        self._queue: list[Tensor] = []

    def _hold(self, samples: Sequence[Sample]) -> None:
        """Put a rung together; what was too much for memory is put together batch by batch."""
        self.targets: list[list[int]] = [sample.target.tolist() for sample in samples]
        self._rung = None if isinstance(samples, Spilled) else collate(samples)
        if self._rung and self._rung.features.nbytes <= RESIDENT_BYTES:
            self._rung = self._rung.to(self.device)

    def advance(self, steps: int) -> Iterator[float]:
        """Take up to `steps` optimiser steps; yields the training loss after each.

        Raises NonFiniteLoss.
        """
        for _ in range(steps):
            self.network.train()
            factor = self.recipe.lr_factor(self.step - self._began)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            self.optimizer.zero_grad(set_to_none=True)
            loss = sum(self._backward(self._next_clips()) for _ in range(self.recipe.accumulation))
            norm = float(nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or math.inf))
            if not math.isfinite(norm):
                raise NonFiniteLoss(step=self.step, value=norm, what="gradient norm")
            self.optimizer.step()
            self.step += 1
            self.trace.losses.append(loss)
            self.trace.gradient_norms.append(norm)
            self.trace.lrs.append(self.recipe.lr * factor)
            yield loss

    def close(self) -> None:
        """Nothing is left open: for those that have a loop of their own to end."""

    def loss(self, batch: Batch) -> Tensor:
        """The loss that is trained on, for one batch. Scalar."""
        log_probs, steps = self.subject.log_probs(self.network, batch.features, batch.frames)
        if self.subject.loss is None:
            loss = default_loss(log_probs, batch, steps, self.recipe, self.subject.blank)
        else:
            loss = self.subject.own_loss(log_probs, steps, batch.targets, batch.target_lengths)
        if self.recipe.label_smoothing:
            weight = self.recipe.label_smoothing
            loss = (1 - weight) * loss + weight * smoothing(log_probs, batch, steps, self.recipe)
        return loss

    def follow_own_paths(self) -> None:
        """From now on, train frame-wise on the likeliest path of each clip as the network has it
        today, at the recipe's first rates again.

        CTC sums over paths, and is flat where many share a token's place evenly; one of them is
        not.
        """
        self.paths = [
            ctc.best_path(
                log_probs[:given, i],
                batch.targets[i, : batch.target_lengths[i]].tolist(),
                blank=self.subject.blank,
            )
            for batch, log_probs, steps in self.outputs()
            for i, given in enumerate(steps.tolist())
        ]
        self._began = self.step

    def follow_all_paths(self) -> None:
        """From now on, train by the subject's loss again."""
        self.paths = []

    def path_loss(self, batch: Batch, clips: Tensor) -> Tensor:
        """The loss that is trained on while paths are followed.

        clips: which of the rung's are in the batch. Scalar.
        """
        log_probs, _ = self.subject.log_probs(self.network, batch.features, batch.frames)
        return ctc.path_loss(
            log_probs, [self.paths[clip] for clip in clips.tolist()], batch.target_lengths
        )

    def loss_again(self) -> Tensor:
        """The loss of the whole rung, as one batch, for a look at what it is made of; of samples
        that were too many for memory, the first batch. Scalar.
        """
        clips = len(self.samples) if self._rung else self.recipe.batch_of(len(self.samples))
        return self.loss(self._batch(torch.arange(clips)))

    def afresh(self) -> Training:
        """The same training before its first step."""
        return Training(
            self.subject,
            self.samples,
            self.recipe,
            seed=self.order.initial_seed(),
            device=self.device,
            size=self.size,
        )

    def _batch(self, clips: Tensor) -> Batch:
        """Those clips of the rung, on the device."""
        if self._rung is None:
            return collate([self.samples[clip] for clip in clips.tolist()]).to(self.device)
        return select(self._rung, clips).to(self.device)

    def _backward(self, clips: Tensor) -> float:
        batch = self._batch(clips)
        loss = self.path_loss(batch, clips) if self.paths else self.loss(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(step=self.step, value=value, samples=self._infinite(batch))
        share = self.recipe.accumulation if self.recipe.reduction == "mean" else 1
        try:
            (loss / share if share > 1 else loss).backward()
        except RuntimeError as error:
            if errors.of_kept_graph(error):
                raise BadSubject(errors.GRAPH_KEPT) from error
            raise
        return value / share

    def _infinite(self, batch: Batch) -> tuple[str, ...]:
        with torch.no_grad():
            log_probs, steps = self.subject.log_probs(self.network, batch.features, batch.frames)
            losses = ctc.clip_losses(
                log_probs, steps, batch.targets, batch.target_lengths, blank=self.subject.blank
            )
        return tuple(
            name
            for name, loss in zip(batch.names, losses.tolist(), strict=True)
            if not math.isfinite(loss)
        )

    def _next_clips(self) -> Tensor:
        size = self.recipe.batch_of(len(self.samples))
        if size == len(self.samples):
            return torch.arange(size)
        if not self._queue:
            self._queue = list(torch.randperm(len(self.samples), generator=self.order).split(size))
        return self._queue.pop()

    def outputs(self) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """The rung in eval mode, without gradients: batch, log-probabilities (steps, batch,
        vocabulary), steps (batch,).
        """
        self.network.eval()
        with torch.no_grad():
            for indices in torch.arange(len(self.samples)).split(EVAL_BATCH):
                batch = self._batch(indices)
                yield batch, *self.subject.log_probs(self.network, batch.features, batch.frames)

    def hypotheses(self) -> list[list[int]]:
        """What the network says of each clip in eval mode, by the subject's decoder; what the last
        reading had of it where no step was taken since.
        """
        if self._read_as and self._read_as[0] == self.step:
            return self._read_as[1]
        return [
            tokens
            for _, log_probs, steps in self.outputs()
            for tokens in self.subject.decoded(log_probs, steps)
        ]

    def read(self) -> Reading:
        """Measure the rung in eval mode, and keep the reading in the trace."""
        hypotheses: list[list[int]] = []
        sums, counts, unnormalised = (
            torch.zeros(3, dtype=torch.float64),
            torch.zeros(3, dtype=torch.float64),
            0.0,
        )
        for batch, log_probs, steps in self.outputs():
            decoded, *averages = self._read_batch(batch, log_probs, steps)
            hypotheses += decoded
            # The loss is a mean over clips, the other two over steps.
            weights = torch.tensor([len(batch), steps.sum(), steps.sum()], dtype=torch.float64)
            sums += weights * torch.tensor(averages, dtype=torch.float64)
            counts += weights
            unnormalised = max(unnormalised, measures.normalisation_error(log_probs, steps))
        loss, blanks, entropy = (sums / counts).tolist()
        targets = self.targets
        reading = Reading(
            step=self.step,
            loss=loss,
            token_error_rate=measures.token_error_rate(hypotheses, targets),
            exact_share=measures.exact_share(hypotheses, targets),
            nearest_target_share=measures.nearest_target_share(hypotheses, targets)
            if len(targets) <= EVAL_BATCH
            else math.nan,
            emission_ratio=measures.emission_ratio(hypotheses, targets),
            blank_share=blanks,
            entropy_ratio=entropy,
            normalisation_error=unnormalised,
        )
        self.trace.readings.append(reading)
        self._read_as = self.step, hypotheses
        return reading

    def _read_batch(
        self, batch: Batch, log_probs: Tensor, steps: Tensor
    ) -> tuple[list[list[int]], float, float, float]:
        subject, hypotheses = self.subject, self.subject.decoded(log_probs, steps)
        loss = float(
            ctc.nats_per_token(
                log_probs, steps, batch.targets, batch.target_lengths, blank=subject.blank
            )
        )
        return (
            hypotheses,
            loss,
            measures.blank_share(log_probs, steps, blank=subject.blank),
            measures.entropy_ratio(log_probs, steps),
        )


def select(rung: Batch, indices: Tensor, *, cut: bool = True) -> Batch:
    """Some clips of a batch, cut to the longest of them, or padded as they are."""
    if len(indices) == len(rung):
        return rung
    where = indices.to(rung.features.device)
    frames = rung.frames[where]
    return Batch(
        names=tuple(rung.names[i] for i in indices.tolist()),
        features=rung.features[where, : int(frames.max()) if cut else None],
        frames=frames,
        targets=rung.targets[indices],
        target_lengths=rung.target_lengths[indices],
    )


def keep_up_norms(network: nn.Module, momentum: float | None) -> None:
    """Set the momentum of batch norms that have torch's default; one set by hand is the network's
    own and stays.
    """
    for module in network.modules():
        if (
            momentum is not None
            and isinstance(module, _BatchNorm)
            and module.momentum == TORCH_NORM_MOMENTUM
        ):
            module.momentum = momentum


def make_optimizer(network: nn.Module, subject: Subject, recipe: Recipe) -> Optimizer:
    """The recipe's optimiser over what the subject trains, one group a layer factor; a group's
    `peak_lr` is its rate after warm-up.
    """
    trained = list(subject.trainable(network))
    if not trained:
        raise BadSubject(
            f"subject {subject.name}: nothing to train: no parameter was given to the optimiser"
        )
    for prefix in recipe.layer_lr:
        if not any(name.startswith(prefix) for name, _ in trained):
            raise BadRecipe(f"recipe: layer_lr {prefix!r} matches no parameter of {subject.name}")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained:
        groups.setdefault(recipe.layer_factor(name), []).append(parameter)
    described = [
        {"params": parameters, "lr": recipe.lr * factor, "peak_lr": recipe.lr * factor}
        for factor, parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return SGD(
            described,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(
        described,
        lr=recipe.lr,
        betas=(0.9, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
