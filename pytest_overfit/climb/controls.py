"""Controls: checks that a pass was honest. A trained network is run on inputs that should undo it.

A network that has learned its clips must fail when clips are swapped, also when each keeps its own
length, and on noise; how much it needs the order of frames, or each body part, is told and not
judged. Each clip must be read alone as among longer ones, and train and eval mode must agree,
dropout aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit import ctc, measures
from pytest_overfit.finding import Finding
from pytest_overfit.findings.leaks import BATCH_LEAK
from pytest_overfit.findings.lost_input import INPUT_IGNORED
from pytest_overfit.findings.modes import TRAIN_EVAL_GAP
from pytest_overfit.findings.padding import PADDING_LEAK
from pytest_overfit.network.function_edits import Undropped
from pytest_overfit.network.recorder import undisturbed
from pytest_overfit.subject import Batch, Sample, Subject, collate
from pytest_overfit.training import select

BATCH = 16
INFORMATIVE = 5
"""Clips for the controls that are told and not judged: how much order and body parts matter."""
DESTROYED = 0.5
"""Token error rate that a network must at least reach on swapped inputs, as a share of what the
swapped targets differ by.
"""
ANSWERED = 0.1
"""The same where each clip keeps its length, which a sound network may go by in part: one that
reads nothing else does not answer at all.
"""
GAP = 0.2
"""Token error rate by which eval mode may be worse than train mode, and a clip alone worse than in
its batch.
"""
UNMOVED = 0.1
"""Token error rate by which noise must at least raise that of a pass, where it does not raise the
loss.
"""
LOUD = 3.0
"""Deviations of the loudest noise."""
STIRRED = 0.25
"""Nats a token by which noise must at least raise the loss.

Sound networks reach 1.5 and more, with one clip too.
"""


BLIND = {
    "inputs swapped": "inputs swapped between clips",
    "swapped, own length": "inputs swapped between clips, each stretched to the other's length,",
    "noise": "noise in the place of the clips",
}
"""Controls that a pass must not outlive, in words."""
JUDGED = (*BLIND, "clips alone", "clips alone, padded")
"""Controls that decide; the others inform."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A run on altered inputs. as_is, altered: token error rates.

    held: None where it is told and not judged; of the first `INFORMATIVE` clips, then.
    """

    name: str
    as_is: float
    altered: float
    held: bool | None = None


def run_controls(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Control, ...]:
    """All controls of a network trained on `samples`, in eval mode.

    The network is left as it was.
    """
    targets = [sample.target.tolist() for sample in samples]
    generator = torch.Generator().manual_seed(seed)

    def rate(altered: Sequence[Sample]) -> float:
        return measures.token_error_rate(
            hypotheses(subject, network, altered, device=device), targets
        )

    read_as, nats = read(subject, network, samples, device=device)
    as_is = measures.token_error_rate(read_as, targets)
    few = samples[:INFORMATIVE]
    of_few = measures.token_error_rate(read_as[: len(few)], targets[: len(few)])

    def informative(name: str, features: list[Tensor]) -> Control:
        decoded = hypotheses(subject, network, _given(few, features), device=device)
        altered = measures.token_error_rate(decoded, targets[: len(few)])
        return Control(name=name, as_is=of_few, altered=altered)

    shuffled = [
        sample.features[torch.randperm(sample.frames, generator=generator)] for sample in few
    ]
    return (
        *_swapped(samples, as_is, rate, generator),
        _noise_control(subject, network, samples, (as_is, nats), device),
        *_alone(subject, network, samples, as_is, device),
        informative("frames shuffled", shuffled),
        *(
            informative(f"{part} zeroed", [_zeroed(sample.features, where) for sample in few])
            for part, where in subject.parts.items()
        ),
    )


def _given(samples: Sequence[Sample], features: Sequence[Tensor]) -> list[Sample]:
    return [replace(sample, features=own) for sample, own in zip(samples, features, strict=True)]


def _swapped(
    samples: Sequence[Sample],
    as_is: float,
    rate: Callable[[Sequence[Sample]], float],
    generator: torch.Generator,
) -> tuple[Control, ...]:
    """Each clip is given another's features, the next one's with another target: as they are, and
    stretched to its own length.

    The second tells networks that know a clip by its length. Where all targets are one, noise is
    given, and told, not judged: a swap says nothing there.
    """
    targets = [sample.target.tolist() for sample in samples]
    donors = [
        next(
            (
                other
                for other in (*samples[i + 1 :], *samples[:i])
                if other.target.tolist() != targets[i]
            ),
            None,
        )
        for i in range(len(samples))
    ]
    given = [
        _noise_like(s.features, generator) if d is None else d.features
        for s, d in zip(samples, donors, strict=True)
    ]
    expected = measures.token_error_rate(
        [[] if donor is None else donor.target.tolist() for donor in donors], targets
    )
    kept = [
        _stretched(features, sample.frames) for features, sample in zip(given, samples, strict=True)
    ]
    controls = []
    for name, features, share in (
        ("inputs swapped", given, DESTROYED),
        ("swapped, own length", kept, ANSWERED),
    ):
        altered = rate(_given(samples, features))
        held = altered >= as_is + share * max(expected - as_is, 0.0) if any(donors) else None
        controls.append(Control(name=name, as_is=as_is, altered=altered, held=held))
    return tuple(controls)


def _stretched(features: Tensor, frames: int) -> Tensor:
    """(frames, dim): features drawn out or together on straight lines."""
    return F.interpolate(features.T[None], size=frames, mode="linear", align_corners=True)[0].T


def _noise_control(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    before: tuple[float, float],
    device: torch.device | str,
) -> Control:
    """Noise in the place of each clip, as long as it is: like the clip, like all clips, and three
    times as loud around zero.

    A network that reads anything answers to one of them, be it by its tokens or by how sure it is
    of them; the first answer is enough. Told and not judged where all clips are one and the same
    token: that asks for no look at the input. before: token error rate and nats per token of the
    clips.
    """
    generator = torch.Generator().manual_seed(1)
    whole = torch.cat([sample.features for sample in samples])
    mean, deviation = whole.mean(0), whole.std(0, unbiased=False)
    kinds: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda features: _noise_like(features, generator),
        lambda features: mean + deviation * _noise(features, generator),
        lambda features: LOUD * deviation * _noise(features, generator),
    )
    targets = [sample.target.tolist() for sample in samples]
    as_is, nats_as_is = before
    altered = 0.0
    moved = False
    for kind in kinds:
        noise = _given(samples, [kind(sample.features) for sample in samples])
        read_as, nats = read(subject, network, noise, device=device)
        altered = max(altered, measures.token_error_rate(read_as, targets))
        moved = altered >= as_is + UNMOVED or not nats < nats_as_is + STIRRED
        if moved:
            break
    asks = (
        len({tuple(sample.target.tolist()) for sample in samples}) > 1 or len(samples[0].target) > 1
    )
    return Control(name="noise", as_is=as_is, altered=altered, held=moved if asks else None)


def _alone(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    as_is: float,
    device: torch.device | str,
) -> tuple[Control, ...]:
    """Each clip in a batch of its own, without padding; told and not judged where all are of one
    length.

    Where that fails, each is read alone once more, padded as it was among the others: what fails
    then too hangs on its batch mates. A network that takes no batch which no clip fills is given
    the longest beside it.
    """
    targets = [sample.target.tolist() for sample in samples]

    def control(name: str, batches: Iterable[Batch]) -> Control:
        outputs = _outputs(subject, network, batches, False, device)
        read_as = [subject.decoded(*told)[0] for _, told in outputs]
        altered = measures.token_error_rate(read_as, targets)
        return Control(name=name, as_is=as_is, altered=altered, held=altered <= as_is + GAP)

    alone = control("clips alone", (collate([sample]) for sample in samples))
    if len({sample.frames for sample in samples}) == 1:
        return (replace(alone, held=None),)
    if alone.held:
        return (alone,)
    batches = [(batch, row) for batch in _batches(samples) for row in range(len(batch))]
    padded = (select(batch, torch.tensor([row]), cut=False) for batch, row in batches)
    filled = (
        select(batch, torch.tensor([row, int(batch.frames.argmax())]), cut=False)
        for batch, row in batches
    )
    try:
        return alone, control("clips alone, padded", padded)
    except Exception:  # whatever the subject's code raises
        return alone, control("clips alone, padded", filled)


def _noise(features: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of features."""
    return torch.randn(features.shape, generator=generator, dtype=features.dtype)


def _noise_like(features: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with each column's mean and deviation."""
    return features.mean(0) + _noise(features, generator) * features.std(0, unbiased=False)


def _zeroed(features: Tensor, where: slice) -> Tensor:
    silenced = features.clone()
    silenced[:, where] = 0
    return silenced


def hypotheses(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    train: bool = False,
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """What the network says of each clip.

    train: with batch statistics, dropout off all the same.
    """
    return _decoded(subject, _outputs(subject, network, _batches(samples), train, device))


def _decoded(
    subject: Subject, outputs: Iterable[tuple[Batch, tuple[Tensor, Tensor]]]
) -> list[list[int]]:
    return [tokens for _, told in outputs for tokens in subject.decoded(*told)]


def read(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    device: torch.device | str = "cpu",
) -> tuple[list[list[int]], float]:
    """What the network says of each clip in eval mode, and CTC of the clips in nats per token."""
    read_as: list[list[int]] = []
    total = 0.0
    for batch, (log_probs, steps) in _outputs(subject, network, _batches(samples), False, device):
        read_as += subject.decoded(log_probs, steps)
        loss = ctc.nats_per_token(
            log_probs, steps, batch.targets, batch.target_lengths, blank=subject.blank
        )
        total += float(loss) * len(batch)
    return read_as, total / len(samples)


def _batches(samples: Sequence[Sample]) -> Iterator[Batch]:
    for start in range(0, len(samples), BATCH):
        yield collate(samples[start : start + BATCH])


def _outputs(
    subject: Subject,
    network: nn.Module,
    batches: Iterable[Batch],
    train: bool,
    device: torch.device | str,
) -> Iterator[tuple[Batch, tuple[Tensor, Tensor]]]:
    """Batches with their log-probabilities (steps, batch, vocabulary) and steps, without
    dropout.
    """
    for batch in batches:
        batch = batch.to(device)
        with undisturbed(network, train=train, seed=0), torch.no_grad(), Undropped():
            outputs = subject.log_probs(network, batch.features, batch.frames)
        yield batch, outputs


def ignored_inputs(controls: Sequence[Control]) -> tuple[Finding, ...]:
    """A pass that other inputs do not undo, or that padding or batch mates make."""
    named = {control.name: control for control in controls}
    blind = next(
        (named[name] for name in BLIND if name in named and named[name].held is False), None
    )
    if blind is not None:
        return (
            INPUT_IGNORED.finding(
                headline=f"the pass is not honest: with {BLIND[blind.name]} WER is "
                f"{100 * blind.altered:.0f} %, as they are {100 * blind.as_is:.0f} %",
                try_="look for targets that reach the network, for outputs remembered by position "
                "in the batch or by a clip's length, and for "
                "features that are lost on their way",
                status="confirmed",
            ),
        )
    alone, padded = named.get("clips alone"), named.get("clips alone, padded")
    if alone is None or alone.held is not False:
        return ()
    if padded is not None and padded.held is False:
        return (
            BATCH_LEAK.finding(
                headline="the pass hangs on batch mates: each clip alone, padded as among them, WER "
                f"is {100 * padded.altered:.0f} %, in a batch {100 * padded.as_is:.0f} %",
                try_="look for statistics, sums and maxima over the whole batch, and for swapped "
                "time and batch axes",
                status="confirmed",
            ),
        )
    return (
        PADDING_LEAK.finding(
            headline=(
                "the pass hangs on padding: each clip alone WER is "
                f"{100 * alone.altered:.0f} %, in a batch {100 * alone.as_is:.0f} %"
            ),
            try_=(
                "mask what stands past each clip's frames: packed sequences, key_padding_mask, "
                "zeros before every convolution"
            ),
            status="confirmed",
        ),
    )


def train_eval_gap(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    device: torch.device | str = "cpu",
) -> tuple[Finding, ...]:
    """What a trained network can do with batch statistics and not with its running ones; located at
    the norm whose statistics are worst.
    """
    targets = [sample.target.tolist() for sample in samples]
    decoded = [
        hypotheses(subject, network, samples, train=mode, device=device) for mode in (True, False)
    ]
    train, evaluated = (measures.token_error_rate(mode, targets) for mode in decoded)
    if evaluated <= train + GAP:
        return ()
    worst = _worst_norm(subject, network, samples[:BATCH], device)
    return (
        TRAIN_EVAL_GAP.finding(
            headline=(
                f"WER is {100 * evaluated:.0f} % in eval mode and {100 * train:.0f} % in train mode, dropout aside"
            )
            + (
                f": the running statistics of {worst[0]} are not those of the clips"
                if worst
                else ""
            ),
            evidence=(
                (
                    f"{worst[0]}: the mean is off by {worst[1]:.2g} and the deviation by a factor "
                    f"of {worst[2]:.2g}"
                ),
            )
            if worst
            else (),
            module=worst[0] if worst else None,
            samples=tuple(sample.name for sample in samples),
            try_=(
                "raise the momentum of batch norms, train with larger batches, or normalise "
                "without the batch (LayerNorm, GroupNorm)"
            ),
        ),
    )


def _worst_norm(
    subject: Subject, network: nn.Module, samples: Sequence[Sample], device: torch.device | str
) -> tuple[str, float, float] | None:
    """(name, largest error of its mean in deviations, largest factor of its deviation) of the batch
    norm that is furthest off.
    """
    found: list[tuple[str, float, float]] = []

    def read(name: str, norm: _BatchNorm, entering: Tensor) -> None:
        rows = entering.transpose(0, 1).flatten(1).double()
        mean, deviation = rows.mean(1), rows.std(1).clamp(min=1e-8)
        if norm.running_mean is not None and norm.running_var is not None:
            off = (norm.running_mean.double() - mean).abs() / deviation
            factor = (
                (deviation / norm.running_var.double().sqrt().clamp(min=1e-8)).log().abs().exp()
            )
            found.append((name, float(off.max()), float(factor.max())))

    norms = [
        (name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)
    ]
    handles = [
        norm.register_forward_pre_hook(lambda m, args, name=name: read(name, m, args[0]))
        for name, norm in norms
    ]
    batch = collate(samples).to(device)
    try:
        with undisturbed(network, train=True, seed=0), torch.no_grad(), Undropped():
            subject.log_probs(network, batch.features, batch.frames)
    finally:
        for handle in handles:
            handle.remove()
    return max(found, key=lambda norm: norm[1] + norm[2], default=None)
