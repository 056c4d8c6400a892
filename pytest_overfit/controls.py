"""Controls: checks that a pass was honest. A trained network is run on inputs that should undo it.

A network that has learned its clips must fail when clips are swapped; how much it needs the order of frames, or each body part, is told
and not judged. Train and eval mode must agree, dropout aside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from pytest_overfit import ctc, measures
from pytest_overfit.contracts.bench import undisturbed
from pytest_overfit.finding import Finding
from pytest_overfit.subject import Sample, Subject, collate

BATCH = 16
DESTROYED = 0.5
"""Token error rate that a network must at least reach on swapped inputs, as a share of what the swapped targets differ by."""
GAP = 0.2
"""Token error rate by which eval mode may be worse than train mode."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A run on altered inputs. as_is, altered: token error rates. held: None where it is told and not judged."""

    name: str
    as_is: float
    altered: float
    held: bool | None = None


def run_controls(
    subject: Subject, network: nn.Module, samples: Sequence[Sample], *, seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[Control, ...]:
    """All controls of a network trained on `samples`, in eval mode. The network is left as it was."""
    targets = [sample.target.tolist() for sample in samples]
    generator = torch.Generator().manual_seed(seed)

    def rate(altered: Sequence[Sample]) -> float:
        return measures.token_error_rate(hypotheses(subject, network, altered, device=device), targets)

    def control(name: str, features: list[Tensor]) -> Control:
        return Control(name=name, as_is=as_is, altered=rate([replace(s, features=f) for s, f in zip(samples, features, strict=True)]))

    as_is = rate(samples)
    shuffled = [sample.features[torch.randperm(sample.frames, generator=generator)] for sample in samples]
    return (
        _swapped(samples, as_is, rate, generator),
        control("frames shuffled", shuffled),
        *(control(f"{part} zeroed", [_zeroed(sample.features, where) for sample in samples]) for part, where in subject.parts.items()),
    )


def _swapped(samples: Sequence[Sample], as_is: float, rate: Callable[[Sequence[Sample]], float], generator: torch.Generator) -> Control:
    """Each clip is given another's features, the next one's with another target; noise where all targets are one.

    Told and not judged where there is one target: a recurrent network may lawfully recite a single clip by its own clock.
    """
    targets = [sample.target.tolist() for sample in samples]
    donors = [next((other for other in (*samples[i + 1 :], *samples[:i]) if other.target.tolist() != targets[i]), None) for i in range(len(samples))]
    swapped = [replace(s, features=_noise_like(s.features, generator) if d is None else d.features) for s, d in zip(samples, donors, strict=True)]
    expected = measures.token_error_rate([[] if donor is None else donor.target.tolist() for donor in donors], targets)
    altered = rate(swapped)
    held = altered >= as_is + DESTROYED * max(expected - as_is, 0.0) if any(donors) else None
    return Control(name="inputs swapped", as_is=as_is, altered=altered, held=held)


def _noise_like(features: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with each column's mean and deviation."""
    noise = torch.randn(features.shape, generator=generator, dtype=features.dtype)
    return features.mean(0) + noise * features.std(0, unbiased=False)


def _zeroed(features: Tensor, where: slice) -> Tensor:
    silenced = features.clone()
    silenced[:, where] = 0
    return silenced


def hypotheses(
    subject: Subject, network: nn.Module, samples: Sequence[Sample], *, train: bool = False, device: torch.device | str = "cpu"
) -> list[list[int]]:
    """What the network says of each clip. train: with batch statistics, dropout off all the same."""
    decoded: list[list[int]] = []
    for start in range(0, len(samples), BATCH):
        batch = collate(samples[start : start + BATCH]).to(device)
        with undisturbed(network, train=train, seed=0), torch.no_grad():
            _drop_nothing(network)
            log_probs, steps = subject.log_probs(network, batch.features, batch.frames)
        decoded += subject.decode(log_probs, steps) if subject.decode else ctc.greedy_decode(log_probs, steps, blank=subject.blank)
    return decoded


def _drop_nothing(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.eval()


def ignored_inputs(controls: Sequence[Control]) -> tuple[Finding, ...]:
    """A pass that swapped inputs do not undo."""
    swapped = next(control for control in controls if control.name == "inputs swapped")
    if swapped.held is not False:
        return ()
    return (
        Finding(
            name="input_ignored",
            headline=f"the pass is not honest: with inputs swapped between clips the token error rate is {swapped.altered:.2f}, "
            f"as they are {swapped.as_is:.2f}",
            try_="look for targets that reach the network, and for outputs remembered by position in the batch",
            status="confirmed",
        ),
    )


def train_eval_gap(subject: Subject, network: nn.Module, samples: Sequence[Sample], *, device: torch.device | str = "cpu") -> tuple[Finding, ...]:
    """What a trained network can do with batch statistics and not with its running ones; located at the norm whose statistics are worst."""
    targets = [sample.target.tolist() for sample in samples]
    decoded = [hypotheses(subject, network, samples, train=mode, device=device) for mode in (True, False)]
    train, evaluated = (measures.token_error_rate(mode, targets) for mode in decoded)
    if evaluated <= train + GAP:
        return ()
    worst = _worst_norm(subject, network, samples[:BATCH], device)
    return (
        Finding(
            name="train_eval_gap",
            headline=f"the token error rate is {evaluated:.2f} in eval mode and {train:.2f} in train mode, dropout aside"
            + (f": the running statistics of {worst[0]} are not those of the clips" if worst else ""),
            evidence=(f"{worst[0]}: the mean is off by {worst[1]:.2g} and the deviation by a factor of {worst[2]:.2g}",) if worst else (),
            module=worst[0] if worst else None,
            samples=tuple(sample.name for sample in samples),
            try_="raise the momentum of batch norms, train with larger batches, or normalise without the batch (LayerNorm, GroupNorm)",
        ),
    )


def _worst_norm(subject: Subject, network: nn.Module, samples: Sequence[Sample], device: torch.device | str) -> tuple[str, float, float] | None:
    """(name, largest error of its mean in deviations, largest factor of its deviation) of the batch norm that is furthest off."""
    found: list[tuple[str, float, float]] = []

    def read(name: str, norm: _BatchNorm, entering: Tensor) -> None:
        rows = entering.transpose(0, 1).flatten(1).double()
        mean, deviation = rows.mean(1), rows.std(1).clamp(min=1e-8)
        if norm.running_mean is not None and norm.running_var is not None:
            off = (norm.running_mean.double() - mean).abs() / deviation
            factor = (deviation / norm.running_var.double().sqrt().clamp(min=1e-8)).log().abs().exp()
            found.append((name, float(off.max()), float(factor.max())))

    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    handles = [norm.register_forward_pre_hook(lambda m, args, name=name: read(name, m, args[0])) for name, norm in norms]
    batch = collate(samples).to(device)
    try:
        with undisturbed(network, train=True, seed=0), torch.no_grad():
            _drop_nothing(network)
            subject.log_probs(network, batch.features, batch.frames)
    finally:
        for handle in handles:
            handle.remove()
    return max(found, key=lambda norm: norm[1] + norm[2], default=None)
