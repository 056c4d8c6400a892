"""Findings of numbers that stop being finite, in the output or in a gradient, located at the
function that made them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pytest_overfit import ctc
from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench, gradients
from pytest_overfit.findings.bench.breach import Breach, Run, first_breach
from pytest_overfit.findings.bench.sure import SURE, sure
from pytest_overfit.findings.loss import loss_is_ctc
from pytest_overfit.findings.output import output_starts_uniform
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    FLOAT32,
    FROM_HEAD,
    KEPT_SMALL,
    OFF_ZERO,
    RESET_MODULE,
    SOME_PLACE,
    WITHOUT_IT,
)
from pytest_overfit.findings.signal import EXPLODING_SIGNAL
from pytest_overfit.measures import valid_steps
from pytest_overfit.network.recorder import in_double, undisturbed

LOST = 1e15
"""Norm of a gradient in double precision from which float32 may have lacked range on its way."""


def finding_of(breach: Breach, when: str, network: nn.Module) -> Finding:
    """A breach in words.

    when: what the network was doing, such as "a fresh network in train mode".
    """
    where = breach.module or "the network"
    headline = f"{when}: the {breach.what} of {breach.function} in {where} is not finite"
    shown = [f"{breach.count} of {breach.total} numbers, in {breach.dtype}"]
    shown += [f"at {breach.where}"] if breach.where else []
    if breach.before:
        early = breach.before
        place = f" at {early.where}" if early.where else ""
        shown.append(
            f"{early.count} of {early.total} numbers that {early.function} gave{place} are "
            f"not finite, in {early.dtype}"
        )
    shown += _kept_not_finite(network.get_submodule(breach.module))
    half = breach.dtype in ("float16", "bfloat16")
    return (NON_FINITE_OUTPUT if breach.what == "output" else NON_FINITE_GRADIENT).finding(
        headline=headline,
        evidence=tuple(shown),
        module=breach.module or None,
        try_="compute it in float32"
        if half
        else (
            "an exponential of more than 88 is infinite in float32: softplus, logsumexp and softmax "
            "of torch do without"
        )
        if breach.function in ("exp", "expm1", "exp2")
        else (
            "look for a division by zero, a logarithm or root of zero, or a mask that leaves "
            "nothing"
        ),
        status="confirmed",
    )


def _kept_not_finite(module: nn.Module) -> list[str]:
    """Buffers and parameters of a module's own that are not finite, in words."""
    own = (*module.named_buffers(recurse=False), *module.named_parameters(recurse=False))
    return [
        f"its {name}, {tuple(tensor.shape)}, holds {count} that {'is' if count == 1 else 'are'} not "
        "finite"
        for name, tensor in own
        if (count := int((~torch.isfinite(tensor)).sum()))
    ]


def breach_of_training(
    network: nn.Module, loss: Callable[[], Tensor], *, step: int, seed: int
) -> tuple[Finding, ...]:
    """Why a step of training was not finite: nothing where the numbers had grown too large before,
    as they do at too high a rate.
    """

    def run() -> tuple[Tensor, Tensor]:
        value = loss()
        return value[None], value

    with undisturbed(network, train=True, seed=seed):
        breach = first_breach(network, run)
    return (
        (finding_of(breach, f"step {step} of training", network),)
        if breach and not breach.overflowed
        else ()
    )


def numbers_are_finite(bench: Bench) -> tuple[Finding, ...]:
    """Output and gradient of a fresh network are finite in both modes, and its output when sure."""
    for mode in ("train", "eval"):
        with undisturbed(bench.network, train=mode == "train", seed=bench.seed):
            run = _loss_of_fitting_clips(bench)
            breach = (
                first_breach(bench.network, run) if _any_not_finite(bench.network, run) else None
            )
        if breach and breach.overflowed and breach.what == "output":
            return _grown(bench, breach)
        if breach and not breach.overflowed:
            if breach.what == "gradient" and (size := _gradient_in_double(bench, mode == "train")):
                return _too_large(bench, breach, size)
            return (finding_of(breach, f"a fresh network in {mode} mode", bench.network),)
    return _finite_as_used(bench) or _finite_when_sure(bench)


def _gradient_in_double(bench: Bench, train: bool) -> float | None:
    """The norm of the same gradient in double precision, where it is finite there: what was lacking
    is range alone. None where it is not, or the network does not run so.
    """
    clips, subject = bench.clips, bench.subject
    with in_double():
        fresh = subject.fresh(
            feature_dim=clips[0].features.shape[1], seed=bench.seed, size=bench.size
        )
        network = fresh.to(bench.device).double()
        with undisturbed(network, train=train, seed=bench.seed), torch.enable_grad():
            run = _loss_of_fitting_clips(bench, network)
            try:
                loss = run()[1]
                parameters = [p for p in network.parameters() if p.requires_grad]
                found = [g for g in gradients(loss, parameters) if g is not None]
            except (RuntimeError, TypeError, ValueError):
                return None
    norm = math.hypot(*(float(g.norm()) for g in found))
    return norm if math.isfinite(norm) and norm > LOST else None


def _grown(bench: Bench, breach: Breach) -> tuple[Finding, ...]:
    """Numbers that had grown too large before one was infinite, unless the loss of a fresh output
    tells of it already.
    """
    if bench.once(output_starts_uniform):
        return ()
    where = breach.module or "the network"
    return (
        EXPLODING_SIGNAL.finding(
            headline=f"numbers grow without bound in {where}, until {breach.function} makes infinity "
            "of them",
            evidence=(
                f"it is given numbers of up to {breach.largest:.2g}, in {breach.dtype}",
                *((f"at {breach.where}",) if breach.where else ()),
            ),
            module=breach.module or None,
            try_="see what multiplies them from step to step, or from layer to layer: a state must "
            "fade, a sum be normalised",
            status="confirmed",
        ),
    )


def _too_large(bench: Bench, breach: Breach, size: float) -> tuple[Finding, ...]:
    """A gradient that float32 cannot hold, unless the loss of a fresh output tells of it already."""
    if any(finding.name == EXPLODING_SIGNAL.name for finding in bench.once(output_starts_uniform)):
        return ()
    where = breach.module or "the network"
    return (
        EXPLODING_SIGNAL.finding(
            headline=f"the gradient of a fresh network is too large for {breach.dtype} at {where}",
            evidence=(f"in double precision it is finite, of norm {size:.2g}",),
            module=breach.module or None,
            try_="scale the weights down, or normalise before the last layer",
            status="confirmed",
        ),
    )


def _finite_as_used(bench: Bench) -> tuple[Finding, ...]:
    """Eval mode without gradients, one clip alone: there attention takes a way of its own, which
    hooks close.
    """
    clip = bench.clips[0]
    with (
        undisturbed(bench.network, train=False, seed=bench.seed, as_used=True),
        torch.no_grad(),
    ):
        frames = torch.tensor([clip.frames], device=bench.device)
        output, _ = bench.subject.log_probs(
            bench.network, clip.features[None].to(bench.device), frames
        )
    if not output.isnan().any():
        return ()
    kinds = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    module = next((name for name, m in bench.network.named_modules() if isinstance(m, kinds)), None)
    return (
        NON_FINITE_OUTPUT.finding(
            headline=f"the output of {clip.name} alone, in eval mode without gradients, is nan",
            evidence=(
                (
                    "with gradients it is finite: torch's fast path for attention gives nan where "
                    "a mask leaves nothing to attend to"
                ),
            ),
            module=module,
            samples=(clip.name,),
            try_="check the padding mask: True stands for what is left out",
            status="confirmed",
        ),
    )


def _loss_of_fitting_clips(bench: Bench, network: nn.Module | None = None) -> Run:
    """A clip that has no path has an infinite loss with any network: it is left out.

    network: in the place of the bench's, given features of its own precision.
    """
    batch, network = bench.batch, network or bench.network
    like = next(network.parameters(), batch.features)
    targets = batch.target_lists()
    loss = bench.default_loss if bench.once(loss_is_ctc) else bench.loss

    def run() -> tuple[Tensor, Tensor]:
        log_probs, steps = bench.subject.log_probs(
            network, batch.features.to(like.dtype), batch.frames
        )
        steps = steps.clamp(max=len(log_probs))
        rows = valid_steps(log_probs, steps)
        kept = [i for i, n in enumerate(steps.tolist()) if n >= ctc.steps_needed(targets[i])]
        if not kept or not rows.isfinite().all():
            return rows, rows.sum()
        lengths = batch.target_lengths[kept]
        return rows, loss(log_probs[:, kept], steps[kept], batch.targets[kept], lengths)

    return run


def _any_not_finite(network: nn.Module, run: Run) -> bool:
    """At the price of one plain pass. Tokens may be masked by -inf."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        rows, loss = run()
        if rows.isnan().any():
            return True
        if not rows.isfinite().all() or not loss.requires_grad or not wanted:
            return False
        if not loss.isfinite():
            return True
        found = gradients(loss, wanted)
    return any(g is not None and not bool(g.isfinite().all()) for g in found)


def _finite_when_sure(bench: Bench) -> tuple[Finding, ...]:
    """The fresh network, made sure of its output."""
    with sure(bench) as scaled, undisturbed(bench.network, train=False, seed=bench.seed):
        if not scaled:
            return ()
        run = _loss_of_fitting_clips(bench)
        with torch.no_grad():
            finite = bool(run()[0].isfinite().all())
        breach = None if finite else first_breach(bench.network, run)
    if breach is None:
        return ()
    found = finding_of(breach, "once the network is sure of its output", bench.network)
    shown = f"with tokens {SURE:.0f} nats apart, as in a trained network"
    return (replace(found, evidence=(shown, *found.evidence)),)


NON_FINITE_OUTPUT = Record(
    name="non_finite_output",
    stage="network",
    means="A function in the network makes NaN or infinity out of finite numbers. One such number "
    "in a batch makes the loss, and then every "
    "weight, not a number.",
    detected="Every function call of a fresh network is watched, in train and in eval mode, and "
    "once more with its output scaled as if it were sure "
    "of it; the first that makes such numbers is named. So is the first in a step of training "
    "whose loss is not finite.",
    mend=(
        "Look there for a division by zero, a logarithm or root of zero, or a mask that leaves "
        "nothing; compute it in float32 if it is half."
    ),
    remedies=(SOME_PLACE, OFF_ZERO, KEPT_SMALL, FLOAT32, FROM_HEAD, RESET_MODULE, *WITHOUT_IT),
    planted=("net-empty-mask",),
)
NON_FINITE_GRADIENT = Record(
    name="non_finite_gradient",
    stage="network",
    means=(
        "The output is finite and a gradient on its way back is not: as of a root at zero, or of "
        "both branches of a torch.where."
    ),
    detected=(
        "Every backward step is watched, and the first that makes such a gradient is named by the "
        "function it belongs to."
    ),
    mend=(
        "Add a small number inside the root or the norm, or keep the bad values out of the branch "
        "that is not taken."
    ),
    remedies=(OFF_ZERO, SOME_PLACE, KEPT_SMALL, FLOAT32, FROM_HEAD, *WITHOUT_IT),
    planted=("grad-root-of-zero",),
)

FINITE_NUMBERS = Contract(
    name="finite numbers",
    holds="output and gradients are finite numbers",
    about="network",
    examine=numbers_are_finite,
    finds=(NON_FINITE_OUTPUT, NON_FINITE_GRADIENT, EXPLODING_SIGNAL),
)
