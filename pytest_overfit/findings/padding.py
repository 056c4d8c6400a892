"""Findings of padding: in eval mode a clip's output must not depend on what stands behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pytest_overfit import ctc
from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.bench.restored import maker_of
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import ONE_BY_ONE
from pytest_overfit.network.recorder import distance, first_apart, recorded
from pytest_overfit.subject import Sample, collate

Runs = Callable[[], tuple[Tensor, Tensor]]
GRAVE = 0.5
"""Share of what a fresh output says of a clip that padding may change before it is a failure.
Convolutions that read a few zeros change 0.001 to 0.01, a group norm over time or an unmasked
recurrent layer 0.1; what a trained network makes of it, the control `clips alone` tells.
"""
EDGE, EDGE_NATS = 1 / 3, 0.01
"""Share of a clip's steps, at its end, to which a change may be kept that is only told whatever a fresh
output makes of it, since it says next to nothing; and the share by which the loss may move then.
"""
FAINT = 0.2
"""Nats by which log-probabilities may change anywhere for the same reason. In networks of others, zeros
that convolutions and recurrent layers read changed a fresh output by 0.01 to 0.11, padding that attention
or statistics over time took for frames by 0.3 and more in most; what training makes of it, the control
tells.
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
        alone = bench.alone(clip.features)
        batch = collate([clip, bench.clips[0]]).to(bench.device)
        # A network that cuts what is past the longest clip is padded by batch mates alone.
        for padded in (
            partial(bench.alone, clip.features, padded_to=length),
            partial(bench.run, batch.features, batch.frames),
        ):
            rows = _rows(alone, padded())
            if distance(rows[0].float(), rows[1].float()) > bench.tolerance:
                return (_padding_leak(bench, clip, rows, padded),)
    return ()


def _rows(alone: tuple[Tensor, Tensor], padded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (steps, vocabulary) of a clip alone and with padding behind it."""
    (output, steps), (other, own) = alone, padded
    valid = min(int(steps[0]), int(own[0]), len(output))
    return output[:valid, 0].double(), other[:valid, 0].double()


def _where_it_leaks(
    bench: Bench, clip: Sample, padded: Runs, grave: bool
) -> tuple[str, str] | None:
    """(module, in words): the one that makes much of what a failure hangs on, else the first that
    tells padding.
    """
    calls, output, steps = bench.passage(clip.features)
    maker = (
        maker_of(bench.network, calls, lambda: _share_changed(*_rows((output, steps), padded())))
        if grave
        else None
    )
    if maker:
        return maker, f"by what {maker} makes of it"
    with recorded(bench.network) as others:
        padded()
    first = first_apart(calls, others)
    return (first, f"first in {first}") if first else None


def _padding_leak(bench: Bench, clip: Sample, rows: tuple[Tensor, Tensor], runs: Runs) -> Finding:
    """rows: log-probabilities (steps, vocabulary) of the clip alone and with padding behind it. runs:
    runs it with that.
    """
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
    grave = share >= GRAVE and not (little and abs(losses[1] / losses[0] - 1) < EDGE_NATS)
    where = _where_it_leaks(bench, clip, runs, grave)
    return PADDING_LEAK.finding(
        headline=f"the output of {clip.name} depends on the padding behind it"
        + (f", {where[1]}" if where else ""),
        evidence=(
            f"{changed} of {counted(len(alone), 'step')} change, by up to "
            f"{distance(alone, padded):.2g}: {share:.2g} of what the output says "
            f"of this clip, where {GRAVE:g} is grave",
            f"the loss moves by {losses[1] - losses[0]:+.2g} from {losses[0]:.3g} nats per token",
            f"another token comes first at {counted(moved, 'step')}",
        ),
        module=where[0] if where else None,
        samples=(clip.name,),
        try_=(
            "mask what stands past each clip's frames: packed sequences, key_padding_mask, zeros "
            "before every convolution"
        ),
        status="confirmed",
        severity="failure" if grave else "warning",
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
    "a fifth of a nat, and the loss moves by less than a hundredth. A pass of a rung must also "
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
