"""Findings of an output that is bounded: no weights make it as sure of a token as CTC needs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Detector, Record
from pytest_overfit.findings.remedies import subject_remedy
from pytest_overfit.findings.signal import number
from pytest_overfit.network.network_edits import edited
from pytest_overfit.network.recorder import Call, recorded, undisturbed
from pytest_overfit.subject import Batch, Sample, Subject, collate

if TYPE_CHECKING:
    from pytest_overfit.explain.evidence import Evidence

TIMES, SHIFT = 1000.0, 10.0
"""What weights are multiplied by, and the deviation of the noise that is added: a scale that starts
at zero, or is the exponential of a weight, is found as well.
"""
REACHED = 30.0
"""Nats between tokens from which nothing is bounded that matters."""
CLIMBED, STILL, RATE = 100, 15, 0.1
"""Steps of a climb towards tokens that lie far apart, those in which it must come further, and its
rate: what recurrent layers bound lies further apart than random weights show.
"""


def bounded_output(evidence: Evidence) -> Finding | None:
    """Whatever its weights, no step can be sure enough of a token for the loss that the rung
    demands.
    """
    rung, clip = evidence.rung, evidence.samples[0]
    subject = rung.subject
    demanded = next((one.bound for one in rung.criteria if one.name == "loss"), None)
    if demanded is None or subject.loop is not None:
        return None
    reach, steps, module = furthest(subject, evidence.fresh(), clip, rung.device)
    least = least_loss(reach, steps, clip.target.tolist(), len(subject.vocabulary))
    if not least > demanded:
        return None
    where = f" of {module}" if module else ""
    return BOUNDED_OUTPUT.finding(
        headline=f"the logits{where} are bounded: whatever the weights, those of a step lie within "
        f"{number(reach)} in the mean, so that they cannot be sure of their tokens",
        evidence=(
            f"so bounded, CTC of {clip.name} is at least {number(least)} nats per token; below "
            f"{demanded:g} is demanded",
        ),
        module=module,
        samples=(clip.name,),
        try_="multiply the logits by a scale, learned or of 20 or so, before log_softmax",
    )


def least_loss(reach: float, steps: int, target: Sequence[int], vocabulary: int) -> float:
    """A bound in nats per token below which CTC cannot fall, where the log-probabilities of a step
    lie within `reach` nats in the mean.

    Every path of a target keeps to its labels and the blank: it has at most the probability that
    all of those can have, at every step. What that costs a step is convex in its reach, so that the
    mean reach bounds the mean cost.
    """
    useful = len(set(target)) + 1
    others = max(vocabulary - useful, 0)
    return steps * math.log1p(others * math.exp(-reach) / useful) / len(target)


def furthest(
    subject: Subject, network: nn.Module, clip: Sample, device: torch.device | str = "cpu"
) -> tuple[float, int, str | None]:
    """How far the logits of a step come to lie apart in the mean, at most, as the weights of one module
    after another are changed beyond all measure, and as all of them climb towards that; how many steps
    the clip has; and the module that puts out the logits, if it is bounded by itself.

    Modules are tried from the last to the first, until one takes them REACHED nats apart; the
    network is left as it was. Weights that make the output not finite bound nothing.
    """
    batch = collate([clip]).to(device)

    def run() -> tuple[float, int, list[Call]]:
        with (
            undisturbed(network, train=False, seed=0),
            torch.no_grad(),
            recorded(network) as calls,
        ):
            log_probs, steps = subject.log_probs(network, batch.features, batch.frames)
        return _apart(log_probs[: int(steps[0]), 0]), int(steps[0]), calls

    generator = torch.Generator().manual_seed(0)
    reach, steps, calls = run()
    head = next(
        (call for call in reversed(calls) if _of_tokens(call, len(subject.vocabulary))), None
    )
    own = _apart(_tokens_last(head, len(subject.vocabulary))) if head else math.inf
    for weights in _by_module(network):
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.mul_(TIMES).add_(SHIFT * noise)
        try:
            apart, _, calls = run()
        finally:
            with torch.no_grad():
                for weight, kept in zip(weights, before, strict=True):
                    weight.copy_(kept)
        reach = max(reach, apart)
        if reach >= REACHED:
            return math.inf, steps, None
        again = next(
            (call for call in reversed(calls) if head and call.module == head.module), None
        )
        if again is not None:
            own = max(own, _apart(_tokens_last(again, len(subject.vocabulary))))
    module = head.module if head and own <= reach * (1 + 1e-3) else None
    return max(reach, _climbed(subject, copy.deepcopy(network), batch)), steps, module


def _climbed(subject: Subject, network: nn.Module, batch: Batch) -> float:
    """How far apart the tokens of a step lie in the mean after a climb towards that, by every weight:
    until they are REACHED nats apart, or come no further.
    """
    reached = [0.0]
    with undisturbed(network, train=False, seed=0), torch.enable_grad():
        optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
        for step in range(CLIMBED):
            log_probs, steps = subject.log_probs(network, batch.features, batch.frames)
            rows = log_probs[: int(steps[0]), 0]
            if (apart := _apart(rows.detach())) >= REACHED or not rows.requires_grad:
                return math.inf
            reached.append(max(reached[-1], apart))
            if step > STILL and reached[-1] < 1.02 * reached[-STILL]:
                break
            optimiser.zero_grad()
            (rows.amin(-1) - rows.amax(-1)).mean().backward()
            optimiser.step()
    return reached[-1]


def _by_module(network: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The floating-point parameters of each module, the last first."""
    for _, module in reversed([*network.named_modules()]):
        own = [one for one in module.parameters(recurse=False) if one.is_floating_point()]
        if own:
            yield own


def _apart(rows: Tensor) -> float:
    """The largest distance between two tokens of a row (..., vocabulary), in the mean over rows: one
    step alone may be sure where all share a norm. Infinite where a number is not finite.
    """
    if not rows.numel() or not bool(torch.isfinite(rows).all()):
        return math.inf
    return float((rows.amax(-1) - rows.amin(-1)).mean())


def _of_tokens(call: Call, vocabulary: int) -> bool:
    return bool(call.outputs) and vocabulary in call.outputs[0].shape[1:]


def _tokens_last(call: Call, vocabulary: int) -> Tensor:
    output = call.outputs[0]
    axis = max(axis for axis in range(1, output.ndim) if output.shape[axis] == vocabulary)
    return output.movedim(axis, -1)


def _sharpened(subject: Subject) -> Subject:
    """The subject whose tokens lie SHARPER times as far apart."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, steps = subject.log_probs(network, features, frames)
        return (SHARPER * log_probs).log_softmax(-1), steps

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


SHARPER = 20.0
SCALE = subject_remedy(f"the logits times {SHARPER:g}", _sharpened)


def _with_layer_behind(subject: Subject) -> Subject:
    """The subject with a linear layer of its own behind its logits."""
    size = len(subject.vocabulary)

    def add_layer(network: nn.Module) -> bool:
        network.add_module(BEHIND, nn.Linear(size, size))
        return True

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, steps = subject.log_probs(network, features, frames)
        logits: Tensor = network.get_submodule(BEHIND)(log_probs)
        return logits.log_softmax(-1), steps

    return replace(edited(subject, add_layer), forward=forward, outputs="log_probs", layout="TBV")


BEHIND = "layer_behind_the_logits"
LAYER_BEHIND = subject_remedy("a linear layer behind the logits", _with_layer_behind)

BOUNDED_OUTPUT = Record(
    name="bounded_output",
    stage="training",
    means=(
        "The logits are bounded so narrowly that no step can be sure of a token: cosines without a "
        "scale, or a tanh, a sigmoid or a softmax behind the last layer. CTC multiplies hundreds of "
        "steps, none of which comes near 1."
    ),
    detected=(
        "The weights of one module after another are made a thousand times as large, and then "
        "trained for nothing but tokens that lie far apart. Where they stay close together all the "
        "same, the least CTC that leaves is computed, and compared with the loss that the rung "
        "demands."
    ),
    mend=(
        "Multiply the logits by a scale, learned or of 20 or so, or put a linear layer behind them; "
        "no squashing function behind that."
    ),
    follows=("non_finite_output", "non_finite_gradient", "unnormalised_output", "clipped_output"),
    remedies=(SCALE, LAYER_BEHIND),
    planted=("head-cosine",),
)

DETECTORS = (Detector(record=BOUNDED_OUTPUT, look=bounded_output),)
