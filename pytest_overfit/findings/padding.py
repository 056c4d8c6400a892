"""Findings of padding: in eval mode a clip's output must not depend on what stands behind it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pytest_overfit import ctc
from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import ONE_BY_ONE
from pytest_overfit.network.recorder import distance, first_apart
from pytest_overfit.subject import Batch, Sample, collate

GRAVE = 0.5
"""Share of what a fresh output says of a clip that padding may change before it is a failure.
Convolutions that read a few zeros change 0.001 to 0.01, a group norm over time or an unmasked
recurrent layer 0.1; what a trained network makes of it, the control `clips alone` tells.
"""
EDGE, EDGE_NATS = 1 / 3, 0.01
"""Share of a clip's steps, at its end, to which a change may be kept that is only told whatever a fresh
output makes of it, since it says next to nothing; and the share by which the loss may move then.
"""
FAINT = 0.05
"""Nats by which log-probabilities may change anywhere for the same reason. In networks of others, zeros
that convolutions and recurrent layers read changed a fresh output by 0.01 to 0.04, attention without a
mask and statistics over time by 0.09 and more; what training makes of it, the control tells.
"""


def padding_is_ignored(bench: Bench) -> tuple[Finding, ...]:
    """Eval mode: zeros behind a clip, as longer batch mates bring them, leave its output as it is.
    Held where all clips are of one length.

    Weighed by the share of what the output says of a clip that padding changes: little is a
    warning.
    """
    if len({sample.frames for sample in bench.samples}) == 1:
        return ()
    for clip in bench.clips[-2:]:
        length = max(clip.frames + clip.frames // 4 + 1, bench.clips[0].frames)
        if not bench.takes(length):
            continue
        alone, steps = bench.alone(clip.features)
        batch = collate([clip, bench.clips[0]]).to(bench.device)
        padded = bench.alone(clip.features, padded_to=length)
        # A network that cuts what is past the longest clip is padded by batch mates alone.
        for among, own in (padded, bench.run(batch.features, batch.frames)):
            valid = min(int(steps[0]), int(own[0]), len(alone))
            if distance(alone[:valid, 0].float(), among[:valid, 0].float()) > bench.tolerance:
                rows = alone[:valid, 0].double(), among[:valid, 0].double()
                module = _where_padding_leaks(bench, clip, length, batch)
                return (_padding_leak(bench, clip, rows, module),)
    return ()


def _where_padding_leaks(bench: Bench, clip: Sample, length: int, batch: Batch) -> str | None:
    calls, *_ = bench.passage(clip.features)
    others, *_ = bench.passage(clip.features, padded_to=length)
    return first_apart(calls, others) or first_apart(calls, bench.calls(batch))


def _padding_leak(
    bench: Bench, clip: Sample, rows: tuple[Tensor, Tensor], module: str | None
) -> Finding:
    """rows: log-probabilities (steps, vocabulary) of the clip alone and with padding behind it."""
    alone, padded = rows
    steps, target = torch.tensor([len(alone)]), clip.target[None]
    losses = [
        float(
            ctc.nats_per_token(
                one[:, None],
                steps,
                target,
                torch.tensor([len(clip.target)]),
                blank=bench.subject.blank,
            )
        )
        for one in rows
    ]
    apart = (alone - padded).abs().amax(1) > bench.tolerance
    changed = int(apart.sum())
    moved = int((alone.argmax(1) != padded.argmax(1)).sum())
    share = _share_changed(alone, padded)
    at_the_edge = not apart[: round((1 - EDGE) * len(apart))].any()
    little = at_the_edge or distance(alone, padded) < FAINT
    return PADDING_LEAK.finding(
        headline=f"the output of {clip.name} depends on the padding behind it"
        + (f", first in {module}" if module else ""),
        evidence=(
            f"{changed} of {counted(len(alone), 'step')} change, by up to "
            f"{distance(alone, padded):.2g}: {share:.2g} of what the output says "
            f"of this clip, where {GRAVE:g} is grave",
            f"the loss moves by {losses[1] - losses[0]:+.2g} from {losses[0]:.3g} nats per token",
            f"another token comes first at {counted(moved, 'step')}",
        ),
        module=module,
        samples=(clip.name,),
        try_=(
            "mask what stands past each clip's frames: packed sequences, key_padding_mask, zeros "
            "before every convolution"
        ),
        status="confirmed",
        severity="failure"
        if share >= GRAVE and not (little and abs(losses[1] / losses[0] - 1) < EDGE_NATS)
        else "warning",
    )


def _share_changed(alone: Tensor, padded: Tensor) -> float:
    """Divergence of one output from the other, over that of the first from its own mean over steps:
    what it says of this clip's steps.
    """
    gain = (alone.exp() * (alone - alone.logsumexp(0) + math.log(len(alone)))).sum(1).mean()
    lost = (alone.exp() * (alone - padded)).sum(1).mean()
    return float(lost / gain.clamp(min=1e-12))


PADDING_LEAK = Record(
    name="padding_leak",
    stage="network",
    means="What is said of a clip depends on the padding behind it, so on how long its batch "
    "mates are. Convolutions that read a few zeros are "
    "usual and only told; much of it makes training and use differ.",
    detected="Clips are run with and without zeros behind them; the share of what the output says "
    "that changes weighs it, unless it changes in the last third of the steps alone, or by less than "
    "a twentieth of a nat, and the loss moves by less than a hundredth. A pass of a rung must also "
    "hold for each clip alone.",
    mend=(
        "Mask what stands past each clip's frames: packed sequences, key_padding_mask, zeros "
        "before every convolution."
    ),
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "exploding_signal",
        "carried_state",
        "random_in_eval",
        "batch_leak",
        "place_lost",
    ),
    remedies=(ONE_BY_ONE,),
    planted=("data-padding",),
    harmless=True,
)

IGNORED_PADDING = Contract(
    name="ignored padding",
    holds="a clip's output does not depend on padding",
    about="network",
    examine=padding_is_ignored,
    finds=(PADDING_LEAK,),
)
