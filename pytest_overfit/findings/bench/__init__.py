"""The bench a subject is examined on: its raw samples, a fresh network, and runs of it that leave
no trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit import ctc
from pytest_overfit.findings.bench.summary import Summary
from pytest_overfit.host import seed_generators, seed_others
from pytest_overfit.network.recorder import Call, distance, recorded, undisturbed
from pytest_overfit.spilled import kept
from pytest_overfit.subject import Batch, Loss, Sample, Subject, collate, in_precision_of

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Rung

Reading = TypeVar("Reading")

CLIPS = 4
"""Clips a network contract runs on."""
SOUGHT = 64
"""Samples the clips are chosen from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A subject under examination. Raises nothing for bad samples: `usable` leaves them out."""

    subject: Subject
    samples: Sequence[Sample]
    seed: int = 0
    device: torch.device | str = "cpu"
    size: str | None = None
    readings: dict[Callable[[Bench], Any], Any] = field(default_factory=dict)

    @staticmethod
    def of(rung: Rung) -> Bench:
        """The bench for the samples, seed and device of a rung."""
        samples = kept(rung.subject.offered(rung.samples))
        return Bench(
            subject=rung.subject,
            samples=samples,
            seed=rung.seeds[0],
            device=rung.device,
            size=rung.size,
        )

    def once(self, read: Callable[[Bench], Reading]) -> Reading:
        """`read(bench)`, which contracts that need the same reading share."""
        if read not in self.readings:
            self.readings[read] = read(self)
        reading: Reading = self.readings[read]
        return reading

    @property
    def vocabulary(self) -> int:
        """How many tokens the network emits, the blank among them."""
        return len(self.subject.vocabulary)

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """A summary of each sample, in their order."""
        return tuple(Summary.of(sample) for sample in self.samples)

    @cached_property
    def usable(self) -> tuple[Sample, ...]:
        """The first samples with finite features of one width and targets that CTC can read."""
        dims = [sample.features.shape[1] for sample in self.samples]
        common = max(set(dims), key=dims.count, default=0)
        chosen = [
            sample
            for sample in self.samples[:SOUGHT]
            if sample.features.shape[1] == common and self._is_usable(sample)
        ]
        return tuple(chosen)

    def _is_usable(self, sample: Sample) -> bool:
        return (
            sample.frames > 0
            and readable(sample.target, self.vocabulary, self.subject.blank)
            and bool(torch.isfinite(sample.features).all())
        )

    @cached_property
    def clips(self) -> tuple[Sample, ...]:
        """A few usable samples of lengths as different as they come, the longest first."""
        by_length = sorted(self.usable, key=lambda sample: -sample.frames)
        count = min(CLIPS, len(by_length))
        return tuple(
            by_length[round(i * (len(by_length) - 1) / max(count - 1, 1))] for i in range(count)
        )

    @cached_property
    def batch(self) -> Batch:
        """The clips as one batch, on the bench's device."""
        return collate(self.clips).to(self.device)

    @cached_property
    def _built(self) -> nn.Module:
        """A fresh network that has not run yet."""
        return self.subject.fresh(
            feature_dim=self.clips[0].features.shape[1], seed=self.seed, size=self.size
        ).to(self.device)

    @property
    def is_built(self) -> bool:
        """Whether building the network raised nothing; false too where it was not tried."""
        return "_built" in self.__dict__

    @property
    def has_run(self) -> bool:
        """Whether its forward pass raised nothing; false too where it was not tried."""
        return "_begun" in self.__dict__

    @property
    def network(self) -> nn.Module:
        """A fresh network that has run once, so that lazy layers have their shapes; in eval mode,
        in which most runs are.
        """
        return self._begun[0]

    @property
    def made_by_a_call(self) -> tuple[str, ...]:
        """Names of parameters that the network did not have before it ran for the first time, or had
        others for.
        """
        return self._begun[1]

    @cached_property
    def _begun(self) -> tuple[nn.Module, tuple[str, ...]]:
        network = self._built.eval()
        before = dict(network.named_parameters())
        with undisturbed(network, train=False, seed=self.seed), torch.no_grad():
            self.subject.forward(
                network, in_precision_of(network, self.batch.features), self.batch.frames
            )
        made = (
            name
            for name, parameter in network.named_parameters()
            if parameter is not before.get(name)
        )
        return network, tuple(made)

    @cached_property
    def failure(self) -> Exception | None:
        """What building the network or running it on its own samples raises."""
        try:
            self.outputs  # noqa: B018  (built and run here once)
        except Exception as error:  # whatever the subject's code raises
            return error
        return None

    def run(
        self, features: Tensor, frames: Tensor, *, train: bool = False, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (steps, batch, vocabulary) and declared steps (batch,), on the CPU.

        Same seed: same dropout, and the same numbers of numpy and Python. Where no clip fills the
        batch and the network takes none such, a clip that does runs beside them.
        """
        if features.shape[1] > int(frames.max()) and self.needs_a_full_clip:
            full = self.clip(features.shape[1]).to(features)[None]
            log_probs, steps = self._run(
                torch.cat([features, full]),
                torch.cat([frames, frames.new_tensor([full.shape[1]])]),
                train=train,
                seed=seed,
            )
            return log_probs[:, :-1], steps[:-1]
        return self._run(features, frames, train=train, seed=seed)

    @cached_property
    def needs_a_full_clip(self) -> bool:
        """Whether the network raises on a clip with padding behind it and nothing longer beside it:
        many make their masks as long as the longest clip.
        """
        shortest = self.clips[-1]
        if shortest.frames == self.clips[0].frames or not self.takes(shortest.frames):
            return False
        row = slice(len(self.clips) - 1, None)
        try:
            self._run(self.batch.features[row], self.batch.frames[row], train=False, seed=None)
        except Exception:  # whatever the subject's code raises
            return True
        return False

    def _run(
        self, features: Tensor, frames: Tensor, *, train: bool, seed: int | None
    ) -> tuple[Tensor, Tensor]:
        return self.in_a_row((features, frames), train=train, seed=seed)[0]

    def in_a_row(
        self, *batches: tuple[Tensor, Tensor], train: bool = False, seed: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """What `run` returns of batches, (features, frames) each, that are run one after another, each
        with the seed; what one leaves in the network's buffers, the next finds there.
        """
        network, seed = self.network, self.seed if seed is None else seed
        outputs = []
        with undisturbed(network, train=train, seed=seed), torch.no_grad():
            for features, frames in batches:
                seed_others(seed)
                seed_generators(seed)
                log_probs, steps = self.subject.log_probs(
                    network, features.to(self.device), frames.to(self.device)
                )
                outputs.append((log_probs.cpu(), steps.cpu()))
        return outputs

    def alone(
        self, features: Tensor, *, padded_to: int = 0, train: bool = False
    ) -> tuple[Tensor, Tensor]:
        """One clip, (frames, dim), zeros behind it up to `padded_to` frames; returns what `run`
        does.
        """
        padding = max(padded_to - len(features), 0)
        return self.run(
            F.pad(features, (0, 0, 0, padding))[None], torch.tensor([len(features)]), train=train
        )

    def clip(self, frames: int) -> Tensor:
        """(frames, dim): the longest clip's features, repeated or cut."""
        features = self.clips[0].features
        return features.repeat(-(-frames // len(features)), 1)[:frames]

    def takes(self, frames: int) -> bool:
        """Whether the network runs on a clip of so many frames: some take one length only, some
        none shorter than their kernels, some none longer than their table of places.
        """
        try:
            self.alone(self.clip(frames))
        except Exception:  # whatever the subject's code raises at a length that no sample has
            return False
        return True

    def passage(
        self, features: Tensor, *, padded_to: int = 0, train: bool = False
    ) -> tuple[list[Call], Tensor, Tensor]:
        """As `alone`, with every module's call."""
        with recorded(self.network) as calls:
            log_probs, steps = self.alone(features, padded_to=padded_to, train=train)
        return calls, log_probs, steps

    def calls(
        self, batch: Batch, *, features: Tensor | None = None, seed: int | None = None
    ) -> list[Call]:
        """Every module's call on a batch, or on other features of its clips."""
        with recorded(self.network) as calls:
            self.run(batch.features if features is None else features, batch.frames, seed=seed)
        return calls

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """The batch of clips in eval mode; steps are cut to what the output has, so that one wrong
        length hides nothing else.
        """
        log_probs, steps = self.run(self.batch.features, self.batch.frames)
        return log_probs, steps.clamp(max=len(log_probs))

    @cached_property
    def tolerance(self) -> float:
        """Differences below this are rounding.

        The largest of a hundredth of how much log-probabilities vary over steps and clips, 3e-5 of
        their size, and five times what a relative change of the features by 1e-6 does to them: that
        is what rounding comes to in a network that computes in half precision somewhere. Where that
        is most, it is asked of each clip by itself: an order of clips that hangs on rounding is
        none.
        """
        output = self.outputs[0].float()
        rows = output.flatten(0, 1)
        rows = rows[torch.isfinite(rows).all(-1)]
        if len(rows) < 2:
            return 1e-4
        least = max(1e-2 * float(rows.std(0).mean()), 3e-5 * float(rows.abs().max()))
        rounding = self._rounding(slice(None), output)
        if rounding > least and len(self.batch) > 1:
            alone = [slice(row, row + 1) for row in range(len(self.batch))]
            rounding = max(self._rounding(one, self._output(one)) for one in alone)
        return max(least, rounding)

    def _output(self, part: slice) -> Tensor:
        """Log-probabilities of some clips of the batch, padded as in it."""
        return self.run(self.batch.features[part], self.batch.frames[part])[0].float()

    def _rounding(self, part: slice, output: Tensor) -> float:
        """Five times what the output of some clips of the batch changes by at most, where their
        features change by 1e-6 of their size; 0 where it is not repeatable.
        """
        features = self.batch.features
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(features.shape, generator=generator).to(features)
        shifted = (features * (1 + 1e-6 * noise))[part]
        gap = distance(self.run(shifted, self.batch.frames[part])[0].float(), output)
        return 5 * gap if math.isfinite(gap) and torch.equal(self._output(part), output) else 0.0

    @property
    def loss(self) -> Loss:
        """The subject's loss, or the engine's."""
        return self.subject.own_loss if self.subject.loss else self.default_loss

    def default_loss(
        self, log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        """CTC with the subject's blank, in nats per token. Arguments as those of `Subject.loss`."""
        return ctc.nats_per_token(
            log_probs, steps, targets, target_lengths, blank=self.subject.blank
        )


def readable(target: Tensor, vocabulary: int, blank: int) -> bool:
    """Whether CTC can read a target: some tokens, all in the vocabulary, none of them blank."""
    return len(target) > 0 and bool(
        ((target >= 0) & (target < vocabulary) & (target != blank)).all()
    )


def gradients(value: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
    """d value / d each of `wanted`, None where there is none; their `.grad` is left as it was.

    Taken by `backward()`, as training does: reentrant checkpoints refuse `torch.autograd.grad`.
    """
    kept = [tensor.grad for tensor in wanted]
    for tensor in wanted:
        tensor.grad = None
    try:
        value.backward()
        return [tensor.grad for tensor in wanted]
    finally:
        for tensor, gradient in zip(wanted, kept, strict=True):
            tensor.grad = gradient


@contextmanager
def perturbed(network: nn.Module, names: set[str], *, scale: float, seed: int) -> Iterator[None]:
    """Add noise to the named parameters and buffers while the block runs: `scale` times each one's
    rms, or a fifth of it where all are zero.
    """
    chosen = {
        name: tensor
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
        if name in names
    }
    kept = {name: tensor.detach().clone() for name, tensor in chosen.items()}
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for tensor in chosen.values():
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor.add_(noise * scale * (float(tensor.square().mean().sqrt()) or 0.2))
        yield
    finally:
        with torch.no_grad():
            for name, tensor in chosen.items():
                tensor.copy_(kept[name])
