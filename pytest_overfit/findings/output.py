"""Findings of a fresh network's output: it must be log-probabilities, near uniform, in full
precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pytest_overfit import ctc
from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench, readable
from pytest_overfit.findings.bench.sure import SURE, sure
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    DEFAULT_LOSS,
    FROM_HEAD,
    LOGARITHM,
    NORMALISE,
    RESET,
    UNCLIPPED,
    WITHOUT_IT,
    ZERO_BIAS,
)
from pytest_overfit.findings.signal import EXPLODING_SIGNAL
from pytest_overfit.measures import valid_steps
from pytest_overfit.network.locate import amplifier, rms
from pytest_overfit.network.network_edits import head_name
from pytest_overfit.network.recorder import Call

NORMALISED = 0.02
"""Largest logsumexp of a row of log-probabilities that is rounding; half precision reaches 0.01."""
EMITTED = 0.4
"""Tokens that a fresh output must expect to emit, for one token of the targets.

Uniform: T/L, 5 to 20. The best constant blank share: 1.
"""
BIASED = 2.0
"""Nats by which the blank's bias lies above the others' to be what makes a fresh output blank."""
TIED = 0.2
"""Share of tokens at the bottom of a row from which they are clipped."""
EXPLODED = 4.0
"""Loss of a fresh network over the uniform level that no healthy initialisation reaches; wide ones
reach 2.5.
"""


def output_is_normalised(bench: Bench) -> tuple[Finding, ...]:
    """Every row of log-probabilities sums to 1, in both modes. log_softmax twice is log_softmax."""
    for train in (False, True):
        log_probs, steps = bench.run(bench.batch.features, bench.batch.frames, train=train)
        rows = valid_steps(log_probs.float(), steps.clamp(max=len(log_probs)))
        if rows.isnan().any():
            return ()  # a contract of its own names it
        excess = rows.logsumexp(-1)
        if excess.abs().max() > NORMALISED:
            return (_unnormalised(bench, rows, excess, log_probs, steps),)
    flat = _flat_softmax(bench)  # its probabilities tie once they are sure
    return flat + _low_precision(bench) + (() if flat else _clipped(bench))


def _unnormalised(
    bench: Bench, rows: Tensor, excess: Tensor, log_probs: Tensor, steps: Tensor
) -> Finding:
    what = _what_was_applied(bench, rows, log_probs)
    batch = bench.batch
    loss = float(
        ctc.nats_per_token(
            log_probs,
            steps.clamp(max=len(log_probs)),
            batch.targets,
            batch.target_lengths,
            blank=bench.subject.blank,
        )
    )
    negative = (
        f": {loss:.3g} nats per token here, and below zero is impossible"
        if loss < 0
        else f": {loss:.3g} nats per token here"
    )
    return UNNORMALISED_OUTPUT.finding(
        headline=f"the output is no log-probability: {what}, so the loss has no floor",
        module=_normalising(bench) if "softmax" in what else None,
        evidence=(
            (
                f"logsumexp of a step is {float(excess.min()):.3g} to {float(excess.max()):.3g}, "
                "must be 0"
            ),
            f"CTC reads it as it stands{negative}",
        ),
        try_="end the network with log_softmax(-1), or declare Subject(outputs='logits')",
        status="confirmed",
    )


def _what_was_applied(bench: Bench, rows: Tensor, log_probs: Tensor) -> str:
    """What normalised the output, if anything did, over which axis: (steps, batch, vocabulary)."""
    if bool((rows >= 0).all()) and bool((rows <= 1).all()):
        return "softmax, not log_softmax, was applied"
    sums = {"the steps": 0, "the clips of a batch": 1}
    for axis, index in sums.items():
        if (
            log_probs.shape[index] > 1
            and log_probs.float().logsumexp(index).abs().max() < NORMALISED
        ):
            return f"log_softmax was taken over {axis}, not over the vocabulary"
    lowest, highest = (float(value) for value in rows.logsumexp(-1).aminmax())
    if highest - lowest < NORMALISED:
        return f"every step sums to exp({highest:.3g}), not to 1"
    return "its steps sum to anything, as logits do"


def _normalising(bench: Bench) -> str | None:
    """The first module whose output sums to 1 over some axis, as it stands or as logarithms, where
    its input does not: what a softmax of some kind is taken in.
    """
    return next(
        (
            call.module
            for call in bench.calls(bench.batch)
            if call.outputs
            and bench.vocabulary in call.outputs[0].shape
            and _is_normalised(call.outputs[0])
            and not (call.inputs and _is_normalised(call.inputs[0]))
        ),
        None,
    )


def _is_normalised(values: Tensor) -> bool:
    """Whether probabilities, or their logarithms, sum to 1 over an axis of several entries."""
    values = values.double()
    axes = [axis for axis, size in enumerate(values.shape) if size > 1]
    if bool((values >= 0).all()):
        return any(float((values.sum(axis) - 1).abs().max()) < NORMALISED for axis in axes)
    if bool((values <= 0).all()):
        return any(float(values.logsumexp(axis).abs().max()) < NORMALISED for axis in axes)
    return False


def _flat_softmax(bench: Bench) -> tuple[Finding, ...]:
    """Probabilities declared as logits: log_softmax of them is normalised, and can never be sure of
    anything.
    """
    if bench.subject.outputs != "logits":
        return ()
    with torch.no_grad():
        output, _ = bench.subject.forward(bench.network, bench.batch.features, bench.batch.frames)
    if bool((output >= 0).all()) and float((output.float().sum(-1) - 1).abs().max()) < NORMALISED:
        return (
            UNNORMALISED_OUTPUT.finding(
                headline=(
                    "the network gives probabilities where logits are declared: log_softmax of "
                    "them can never be sure of a token"
                ),
                evidence=(
                    (
                        "the largest probability it can reach is e / (e + V - 1) = "
                        f"{math.e / (math.e + bench.vocabulary - 1):.3g}"
                    ),
                ),
                module=_normalising(bench),
                try_="remove the softmax from the network",
                status="confirmed",
            ),
        )
    return ()


def _low_precision(bench: Bench) -> tuple[Finding, ...]:
    dtype = bench.outputs[0].dtype
    if dtype not in (torch.float16, torch.bfloat16):
        return ()
    headline = (
        f"the log-probabilities are {str(dtype).removeprefix('torch.')}: a sum over steps loses "
        "what a token is worth"
    )
    return (
        LOW_PRECISION_LOSS.finding(
            headline=headline,
            try_="compute log_softmax and the loss in float32",
            status="confirmed",
        ),
    )


def _clipped(bench: Bench) -> tuple[Finding, ...]:
    """Tokens that tie exactly at the bottom of a row, as ReLU or a clamp on logits leaves them, now
    or once the network is sure of its output; masked tokens lie far below the rest.
    """
    share, now = _tied_at_the_bottom(valid_steps(*bench.outputs)), True
    with sure(bench) as scaled:
        if share < TIED and scaled:
            log_probs, steps = bench.run(bench.batch.features, bench.batch.frames, train=False)
            rows = valid_steps(log_probs, steps.clamp(max=len(log_probs)))
            share, now = _tied_at_the_bottom(rows), False
        if share < TIED:
            return ()
        calls, *_ = bench.passage(bench.clips[0].features)
    module = _last_that_ties(bench, calls)
    when = "" if now else f", once they would lie {SURE:.0f} nats apart as in a trained network"
    return (
        CLIPPED_OUTPUT.finding(
            headline=(
                f"{share:.0%} of the tokens tie at the bottom of every step{when}: the logits are "
                "clipped"
            )
            + (f" by {module}" if module else ""),
            evidence=("a clipped logit has no gradient, and cannot fall below the others",),
            module=module,
            try_="remove the activation or the clamp behind the last layer",
        ),
    )


def _last_that_ties(bench: Bench, calls: list[Call]) -> str | None:
    """The last module that makes the logits tie; of one that several blocks share, the block."""
    last = None
    for place, (before, call) in enumerate(zip((None, *calls), calls, strict=False)):
        made_here = _ties(call.outputs) and not _ties(_last_before(before, call))
        # A softmax behind them moves each row of logits by another number.
        if made_here and (call is calls[-1] or bench.vocabulary in call.outputs[0].shape):
            last = place
    if last is None:
        return None
    name, later = calls[last].module, [call.module for call in calls[last + 1 :]]
    if [call.module for call in calls].count(name) == 1:
        return name
    return next((one for one in later if any(bench.network.get_submodule(one).children())), name)


def _tied_at_the_bottom(rows: Tensor) -> float:
    """Share of the tokens that tie with the lowest of their row, itself aside, of rows (steps,
    vocabulary) not masked; 0 where most are.
    """
    lowest = rows.min(-1, keepdim=True).values
    tied = rows == lowest
    above = torch.where(tied, torch.inf, rows).min(-1).values - lowest[:, 0]
    counted = torch.isfinite(above) & (above < 10)
    if not counted.any() or float(counted.double().mean()) < 0.5 or rows.shape[-1] < 5:
        return 0.0
    return float((tied[counted].sum(-1) - 1).double().mean()) / (rows.shape[-1] - 1)


def _last_before(before: Call | None, call: Call) -> tuple[Tensor, ...]:
    """What a module's own functions are given last: the output of the last module below it, or its
    input where there is none.
    """
    below = before is not None and before.module.startswith(f"{call.module}.")
    return before.outputs if before and below else call.inputs


def _ties(some: tuple[Tensor, ...]) -> bool:
    """Whether many numbers of the first of them tie at the lowest."""
    values = some[0] if some else torch.empty(0)
    return values.numel() > 0 and float((values == values.min()).double().mean()) >= TIED


def output_starts_uniform(bench: Bench) -> tuple[Finding, ...]:
    """Train mode: a fresh loss stands near the uniform level, and the blank is not all it
    expects.
    """
    batch, subject = bench.batch, bench.subject
    log_probs, steps = bench.run(batch.features, batch.frames, train=True)
    steps = steps.clamp(max=len(log_probs))
    fits = [
        i
        for i, target in enumerate(batch.target_lists())
        if int(steps[i]) >= ctc.steps_needed(target) and readable_list(target, bench)
    ]
    rows = valid_steps(log_probs.float(), steps)
    if not fits or rows.isnan().any() or rows.logsumexp(-1).abs().max() > NORMALISED:
        return ()
    targets = batch.target_lists()
    emitted = [
        float((1 - log_probs[: steps[i], i, subject.blank].double().exp()).sum()) / len(targets[i])
        for i in fits
    ]
    loss = float(
        ctc.nats_per_token(
            log_probs[:, fits],
            steps[fits],
            batch.targets[fits],
            batch.target_lengths[fits],
            blank=subject.blank,
        )
    )
    levels = [
        ctc.uniform_level(steps=int(steps[i]), target=targets[i], vocabulary=bench.vocabulary)
        for i in fits
    ]
    level = sum(levels) / len(levels)
    if sum(emitted) / len(emitted) < EMITTED:
        return (_blank_prior(bench, sum(emitted) / len(emitted), loss, level),)
    if not loss <= EXPLODED * level:
        return (_exploding(bench, loss, level),)
    return ()


def readable_list(target: list[int], bench: Bench) -> bool:
    """`readable` for a target that is a list."""
    return readable(torch.tensor(target), bench.vocabulary, bench.subject.blank)


def _blank_prior(bench: Bench, emitted: float, loss: float, level: float) -> Finding:
    head, blank = head_name(bench.network), bench.subject.blank
    bias = dict(bench.network.named_parameters()).get(f"{head}.bias")
    biased = (
        bias is not None
        and len(bias) == bench.vocabulary
        and float((bias[blank] - bias.median()).detach()) > BIASED
    )
    return BLANK_PRIOR.finding(
        module=head if biased else None,
        headline=(
            f"a fresh output is nearly all blank: it expects to emit {emitted:.2g} tokens for each "
            "token of the targets"
        ),
        evidence=(
            f"loss {loss:.3g} nats per token; a uniform output has {level:.3g}",
            "the best constant blank share expects 1",
        ),
        try_="start the blank's bias at 0, or below",
    )


def _exploding(bench: Bench, loss: float, level: float) -> Finding:
    calls, *_ = bench.passage(bench.clips[0].features, train=True)
    at = amplifier(calls)
    return EXPLODING_SIGNAL.finding(
        headline=(
            f"a fresh loss is {loss:.3g} nats per token, where a uniform output has {level:.3g}: the "
            "output is sure of what it has not learned"
        ),
        evidence=(
            (f"rms {rms(at.inputs[0]):.2g} -> {rms(at.outputs[0]):.2g} through {at.module}",)
            if at
            else ()
        ),
        module=at.module if at else None,
        try_="scale the weights or the features down, or normalise before the last layer",
    )


UNNORMALISED_OUTPUT = Record(
    name="unnormalised_output",
    stage="network",
    means="What reaches the loss is no log-probability: logits, a softmax, or one taken over the "
    "wrong axis. CTC then has no floor: its loss falls "
    "below zero, and looks like success.",
    detected=(
        "The logsumexp of every step must be 0, in both modes; the loss of a normalised output "
        "must not be negative."
    ),
    mend="End the network with log_softmax(-1), once, or declare Subject(outputs='logits').",
    follows=("non_finite_output", "non_finite_gradient"),
    remedies=(LOGARITHM, NORMALISE, DEFAULT_LOSS, FROM_HEAD),
    planted=("ctc-softmax", "ctc-softmax-twice", "ctc-logits", "ctc-loss-softmax"),
)
LOW_PRECISION_LOSS = Record(
    name="low_precision_loss",
    stage="loss",
    means=(
        "The loss or its input is computed in half precision. CTC sums over hundreds of steps: "
        "rounding takes away what a token is worth."
    ),
    detected="The loss does not answer to what rounding takes from its input, or all its values "
    "are representable in half precision; or the "
    "log-probabilities are half themselves.",
    mend="Leave autocast before the loss, and give it float32 log-probabilities.",
    remedies=(DEFAULT_LOSS,),
    planted=("train-fp16", "train-bf16"),
)
CLIPPED_OUTPUT = Record(
    name="clipped_output",
    stage="network",
    means=(
        "The logits are clipped, as by a ReLU or a clamp behind the last layer. A clipped logit "
        "has no gradient, and cannot fall below the others."
    ),
    detected="Many tokens tie exactly at the bottom of every step.",
    mend="Remove the activation or the clamp behind the last layer.",
    follows=("non_finite_output", "non_finite_gradient"),
    remedies=(UNCLIPPED, *WITHOUT_IT, FROM_HEAD),
    planted=("head-relu",),
)
BLANK_PRIOR = Record(
    name="blank_prior",
    stage="network",
    means="A fresh output is nearly all blank, so that it takes long until any token is tried.",
    detected=(
        "The tokens that a fresh output expects to emit are counted, for each token of the "
        "targets; the best constant blank share expects 1."
    ),
    mend="Start the blank's bias at 0, or below.",
    remedies=(ZERO_BIAS, RESET),
    planted=("head-blank-bias",),
)

LOG_PROBABILITIES = Contract(
    name="log-probabilities",
    holds="every step of the output sums to 1",
    about="network",
    examine=output_is_normalised,
    finds=(UNNORMALISED_OUTPUT, LOW_PRECISION_LOSS, CLIPPED_OUTPUT),
)
UNIFORM_START = Contract(
    name="uniform start",
    holds="the loss of a fresh network stands near the uniform level",
    about="network",
    examine=output_starts_uniform,
    finds=(BLANK_PRIOR, EXPLODING_SIGNAL),
)
