"""Findings of the loss: it must be CTC of the clips, tokens and steps it is given, up to how it is
reduced, on any device.

A loss may be a mean or a sum, per clip, token or step, scaled, smoothed or sharpened. So it is
judged by what it reacts to and, on fixed outputs with changing targets, by whether it follows the
reference: affinely, or at least in the same order.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from pytest_overfit import ctc
from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.bench.exercise import PADDED, STEPS, TARGETS, Exercise, exercise
from pytest_overfit.findings.bench.reference import reference_nats
from pytest_overfit.findings.leaks import BATCH_LEAK
from pytest_overfit.findings.lengths import WRONG_STEPS
from pytest_overfit.findings.output import LOW_PRECISION_LOSS, UNNORMALISED_OUTPUT
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import DEFAULT_LOSS, LOSS_ON_CPU
from pytest_overfit.findings.running import Unexaminable

EXACT = 3e-5
"""Share of their spread by which losses may miss the reference: float32 misses it by 3e-6, half
precision by 5e-4.
"""
ALIKE = 1e-3
"""Share of its size by which the gradient on another device may differ."""


def loss_blank(bench: Bench) -> int:
    """The blank that the loss uses: at a uniform output, one token's alignments spend two steps in
    three on it.
    """
    trial = exercise(bench)
    push = trial.gradient(
        torch.zeros(STEPS, 1, bench.vocabulary), [[trial.other(bench.subject.blank)]], [STEPS]
    ).sum((0, 1))
    return int(push.argmin()) if push.abs().max() > 0 else bench.subject.blank


def loss_is_ctc(bench: Bench) -> tuple[Finding, ...]:
    """The loss's own contract; the first thing that is wrong with it, since the others follow from
    it.
    """
    broken = _axes(exercise(bench))
    if broken:
        return broken
    trial = exercise(bench, blank=bench.once(loss_blank))
    if _reads_labels_of_padding(trial) and _masks_padding(trial):
        trial = replace(trial, padding=-1)
    checks = (
        _deaf,
        _negative,
        _low_precision,
        _steps_read,
        _tokens_read,
        _independent_clips,
        _gradient,
        _reference,
    )
    return next((found for check in checks if (found := check(trial))), ())


def _finding(
    record: Record, headline: str, *evidence: str, try_: str | None = None
) -> tuple[Finding, ...]:
    return (record.finding(headline=headline, evidence=evidence, try_=try_, status="confirmed"),)


def _axes(trial: Exercise) -> tuple[Finding, ...]:
    try:
        trial.of(trial.log_probs, trial.targets, [STEPS] * TARGETS)
    except (RuntimeError, ValueError, IndexError) as error:
        return _finding(
            BATCH_LEAK if _runs_square(trial) else WRONG_LOSS,
            f"the loss fails on {TARGETS} clips of {PADDED} steps: {str(error).splitlines()[0]}",
            *(
                ["it runs where there are as many steps as clips: it takes one axis for the other"]
                if _runs_square(trial)
                else []
            ),
            try_="the loss is given log-probabilities (steps, batch, vocabulary)",
        )
    return ()


def _runs_square(trial: Exercise) -> bool:
    try:
        trial.of(
            trial.log_probs[:TARGETS], [target[:1] for target in trial.targets], [TARGETS] * TARGETS
        )
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def _negative(trial: Exercise) -> tuple[Finding, ...]:
    lowest = min(trial.one(clip) for clip in range(TARGETS))
    if lowest >= -1e-4:
        return ()
    return _finding(
        UNNORMALISED_OUTPUT,
        (
            f"the loss is {lowest:.3g} on a normalised output: below zero is impossible for a "
            "probability"
        ),
        try_="give log_softmax, not softmax or logits, to CTC",
    )


def _deaf(trial: Exercise) -> tuple[Finding, ...]:
    """The same for any target, on an output that says much and on one that says nothing."""
    uniform = torch.zeros_like(trial.log_probs[:, 0]).log_softmax(-1)
    values = {trial.one(clip) for clip in range(TARGETS)}
    values |= {trial.one(clip, log_probs=uniform) for clip in range(TARGETS)}
    if len(values) > 1:
        return ()
    return _finding(
        WRONG_LOSS,
        f"the loss is {values.pop():.3g} whatever the output and the target",
        f"{TARGETS} targets of 1 to 8 tokens, on a random and on a uniform output of {STEPS} steps",
        try_="look for a weight of clips that is 0 for all that are not known yet, as exp(-loss) is "
        "in float32 for a loss above 104, for a clamp, and for zero_infinity on targets too long",
    )


def _low_precision(trial: Exercise) -> tuple[Finding, ...]:
    values = torch.tensor([trial.one(clip) for clip in range(TARGETS)], dtype=torch.float64)
    output = trial.log_probs[:, 0]
    for dtype in (torch.bfloat16, torch.float16):
        rounded = output.to(dtype).float()
        blind = bool(
            (
                values
                == torch.tensor(
                    [trial.one(clip, log_probs=rounded) for clip in range(TARGETS)],
                    dtype=torch.float64,
                )
            ).all()
        )
        if blind or bool((values == values.to(dtype).double()).all()):
            return _finding(
                LOW_PRECISION_LOSS,
                f"the loss is computed in {str(dtype).removeprefix('torch.')}",
                "it does not react to what rounding to that precision takes away"
                if blind
                else "its values are all representable in it",
                try_="leave autocast before the loss and give it float32 log-probabilities",
            )
    return ()


def _steps_read(trial: Exercise) -> tuple[Finding, ...]:
    clip, generator = TARGETS // 2, torch.Generator().manual_seed(trial.seed + 2)
    base = trial.log_probs[:, 0]
    past, inside = base.clone(), base.clone()
    past[STEPS:] = (3 * torch.randn(past[STEPS:].shape, generator=generator)).log_softmax(-1)
    inside[STEPS - 1] = past[STEPS]
    value = trial.one(clip, log_probs=base)
    if trial.one(clip, log_probs=past) != value:
        return _finding(
            WRONG_STEPS,
            f"the loss reads past the {STEPS} steps that a clip has",
            try_="pass each clip's own steps as input_lengths, not the longest",
        )
    if trial.one(clip, log_probs=inside) == value:
        return _finding(
            WRONG_STEPS,
            "the loss does not read a clip's last step",
            try_="pass each clip's own steps as input_lengths",
        )
    return ()


def _reads_labels_of_padding(trial: Exercise) -> bool:
    """Whether the loss of clips with targets of several lengths changes with valid labels past
    their ends.
    """
    one, two = trial.other(trial.blank), trial.other(trial.other(trial.blank))
    return _of_several(trial, filler=one) != _of_several(trial, filler=two)


def _of_several(trial: Exercise, *, filler: int, spare: int = 1) -> float:
    """The loss of five clips of 2 to 6 tokens, the longest in the middle."""
    targets = [trial.targets[clip] for clip in (1, 4, 5, 2, 3)]
    return float(
        trial.of(
            trial.log_probs[:, : len(targets)],
            targets,
            [STEPS] * len(targets),
            filler=filler,
            spare=spare,
        )
    )


def _masks_padding(trial: Exercise) -> bool:
    """Whether the loss takes -1, which batches are padded with, for no label: one target says the
    same without any padding, and so do several.
    """
    target, output = [trial.targets[TARGETS // 2]], trial.log_probs[:, :1]
    try:
        bare = float(trial.of(output, target, [STEPS], spare=0))
    except (RuntimeError, ValueError, IndexError):
        return False  # it wants what stands past the end
    padded = {float(trial.of(output, target, [STEPS], filler=-1, spare=spare)) for spare in (1, 4)}
    return padded == {bare} and _of_several(trial, filler=-1) == _of_several(
        trial, filler=-1, spare=4
    )


def _tokens_read(trial: Exercise) -> tuple[Finding, ...]:
    clip = TARGETS // 2
    target = trial.targets[clip]
    value = trial.one(clip)
    if trial.padding is None and _reads_labels_of_padding(trial):
        return _finding(
            WRONG_TARGETS,
            "the loss reads past the end of a target",
            try_="check target_lengths, and how targets are flattened",
        )
    near, far = (
        trial.gradient(trial.logits[:, :1], [target], [STEPS], spare=spare) for spare in (1, 4)
    )
    if _apart(near, far) is not None:
        return _finding(
            WRONG_TARGETS,
            "the loss of a clip depends on how far its target is padded: it reads past the end",
            try_="pass each clip's own target_lengths, not the length of the padded targets",
        )
    for place, label in enumerate(target):
        changed = [*target[:place], trial.other(label), *target[place + 1 :]]
        if changed != target and trial.one(clip, target=changed) == value:
            return _finding(
                WRONG_TARGETS,
                f"the loss does not read token {place} of a target of {len(target)}",
                try_="check target_lengths, and how targets are cut",
            )
    return ()


def _independent_clips(trial: Exercise) -> tuple[Finding, ...]:
    """Each clip's gradient in a batch points where it does alone, however the batch is reduced; on
    a square output too.
    """
    for count in (3, TARGETS):
        square = count == TARGETS
        targets = (
            [target[:2] for target in trial.targets] if square else trial.targets[3 : 3 + count]
        )
        steps = [TARGETS] * TARGETS if square else [STEPS, STEPS - 7, PADDED]
        logits = trial.logits[:TARGETS] if square else trial.logits[:, :count]
        together = trial.gradient(logits, targets, steps)
        for clip in range(count):
            alone = trial.gradient(logits[:, clip : clip + 1], [targets[clip]], [steps[clip]])
            if (apart := _apart(alone[:, 0], together[:, clip])) is not None:
                if not square and _independent_of_one_length(trial, logits, targets):
                    return _finding(
                        WRONG_STEPS,
                        "the loss of a clip depends on how many steps the clips beside it have",
                        f"clip {clip} of {count}, of {steps[clip]} steps beside {steps}: cosine "
                        f"{apart:.2f} with its gradient alone; beside clips of its own length it is 1",
                        try_="pass each clip's own steps to the loss, not one number for all",
                    )
                return _finding(
                    BATCH_LEAK,
                    "a clip's gradient of the loss depends on the clips beside it",
                    f"clip {clip} of {count}: cosine {apart:.2f} with its gradient alone",
                    try_=(
                        "the loss is given log-probabilities (steps, batch, vocabulary) and "
                        "targets (batch, tokens)"
                    ),
                )
    return ()


def _independent_of_one_length(trial: Exercise, logits: Tensor, targets: list[list[int]]) -> bool:
    """Whether each clip's gradient points where it does alone beside clips of as many steps."""
    steps = [STEPS] * len(targets)
    together = trial.gradient(logits, targets, steps)
    return all(
        _apart(
            trial.gradient(logits[:, clip : clip + 1], [target], [STEPS])[:, 0], together[:, clip]
        )
        is None
        for clip, target in enumerate(targets)
    )


def _apart(gradient: Tensor, other: Tensor) -> float | None:
    """The cosine of two gradients of a clip where they point elsewhere and the first is not zero."""
    angle = torch.cosine_similarity(gradient.flatten(), other.flatten(), dim=0, eps=1e-20)
    return float(angle) if gradient.abs().max() > 0 and angle < 0.99 else None


def _gradient(trial: Exercise) -> tuple[Finding, ...]:
    """Along its own gradient the loss must rise as fast as the gradient says.

    Central differences, 2 % for float32.
    """
    logits, target = trial.logits[:, :1], [trial.targets[TARGETS // 2]]
    gradient = trial.gradient(logits, target, [STEPS])
    size = float(gradient.norm())
    if size == 0:
        return _finding(
            WRONG_GRADIENT,
            "the loss has no gradient",
            try_="keep the loss attached: no detach, no item, no no_grad",
        )
    nudge = 0.05 * gradient / size
    above, below = (
        float(trial.of((logits + side * nudge).log_softmax(-1), target, [STEPS]))
        for side in (1, -1)
    )
    rise = (above - below) / 0.1
    if abs(rise - size) <= 0.02 * size:
        return ()
    return _finding(
        WRONG_GRADIENT, f"the loss rises by {rise:.4g} along its gradient, which says {size:.4g}"
    )


def _reference(trial: Exercise) -> tuple[Finding, ...]:
    """On a uniform output the loss follows the closed form, on any other the forward algorithm."""
    vocabulary, blank = trial.vocabulary, trial.blank
    closed = [
        len(t) * ctc.uniform_level(steps=STEPS, target=t, vocabulary=vocabulary)
        for t in trial.targets
    ]
    uniform = torch.zeros(PADDED, vocabulary).log_softmax(-1)
    computed = [
        reference_nats(trial.log_probs[:STEPS, 0], target, blank=blank) for target in trial.targets
    ]
    for where, nats, log_probs in (
        ("a uniform output", closed, uniform),
        ("a random output", computed, trial.log_probs[:, 0]),
    ):
        values = [trial.one(clip, log_probs=log_probs) for clip in range(TARGETS)]
        misses = {unit: _misfit(values, nats, unit, trial.targets) for unit in ("clip", "token")}
        if min(misses.values()) <= EXACT or any(
            _same_order(values, nats, unit, trial.targets) for unit in misses
        ):
            continue
        return _finding(
            WRONG_LOSS,
            (
                f"the loss does not follow CTC on {where}: it is off by {min(misses.values()):.1%} "
                "of its range"
            ),
            *(
                f"{len(t)} tokens: loss {value:.3f}, CTC {n:.3f} nats"
                for t, value, n in list(zip(trial.targets, values, nats, strict=True))[:3]
            ),
            try_=(
                "compare with torch.nn.functional.ctc_loss(log_probs, targets, steps, "
                "target_lengths, blank)"
            ),
        )
    return ()


def _scaled(nats: list[float], unit: str, targets: list[list[int]]) -> Tensor:
    return torch.tensor(
        [n / (len(t) if unit == "token" else 1) for n, t in zip(nats, targets, strict=True)],
        dtype=torch.float64,
    )


def _misfit(values: list[float], nats: list[float], unit: str, targets: list[list[int]]) -> float:
    """How far losses are from the best a * reference + b with a > 0, as a share of their spread.

    0 is a perfect fit.
    """
    x, y = _scaled(nats, unit, targets), torch.tensor(values, dtype=torch.float64)
    spread = float(y.max() - y.min())
    if not math.isfinite(spread) or spread == 0:
        return math.inf
    slope, offset = (
        torch.linalg.lstsq(torch.stack([x, torch.ones_like(x)], 1), y[:, None])
        .solution[:, 0]
        .tolist()
    )
    return float((slope * x + offset - y).abs().max()) / spread if slope > 0 else math.inf


def _same_order(
    values: list[float], nats: list[float], unit: str, targets: list[list[int]]
) -> bool:
    """Whether losses rise strictly with the reference, as a focal or otherwise sharpened CTC
    does.
    """
    ordered = [
        value
        for _, value in sorted(zip(_scaled(nats, unit, targets).tolist(), values, strict=True))
    ]
    return all(a < b for a, b in pairwise(ordered))


def loss_is_the_same_on_gpu(bench: Bench) -> tuple[Finding, ...]:
    """Values and gradients of a few clips, here and there."""
    device = torch.device(bench.device)
    if device.type != "cuda":
        raise Unexaminable("it runs on the CPU" if torch.cuda.is_available() else "no CUDA device")
    trial = exercise(bench)
    count = 4
    here = trial.gradient(trial.logits[:, :count], trial.targets[:count], [STEPS] * count)
    there = trial.gradient(
        trial.logits[:, :count].to(device), trial.targets[:count], [STEPS] * count
    ).cpu()
    gap = float((here - there).abs().max() / here.abs().max().clamp(min=1e-12))
    if gap <= ALIKE:
        return ()
    return (
        DEVICE_MISMATCH.finding(
            headline=f"the loss's gradient on {device} differs from the CPU's by {gap:.2g} of its "
            "size",
            try_="give CTC float32 log-probabilities and int64 lengths, or compute it on the CPU",
            status="confirmed",
        ),
    )


WRONG_LOSS = Record(
    name="wrong_loss",
    stage="loss",
    means=(
        "The loss is not CTC: it does not rise and fall with the probability of the target. "
        "Training then leads elsewhere, however well it goes."
    ),
    detected="On fixed outputs with changing targets the loss is compared with the closed form of "
    "a uniform output and with CTC's forward "
    "algorithm in double precision. A mean, a sum, a scale and a strictly rising function of it "
    "pass.",
    mend=(
        "Compare it with torch.nn.functional.ctc_loss(log_probs, targets, steps, target_lengths, "
        "blank); check the order of its arguments."
    ),
    remedies=(DEFAULT_LOSS,),
    planted=("ctc-length-weighted",),
)
WRONG_TARGETS = Record(
    name="wrong_targets",
    stage="loss",
    means=(
        "The loss does not read the targets as they are: it leaves tokens out, or reads past a "
        "target's end."
    ),
    detected=(
        "One token of a target is changed at a time, what stands behind its end, and how much does; "
        "the loss must answer to the first and not to the others."
    ),
    mend="Check target_lengths, and how targets are cut or flattened.",
    remedies=(DEFAULT_LOSS,),
    planted=(
        "ctc-target-lengths",
        "ctc-target-lengths-over",
        "ctc-targets-shifted",
        "ctc-targets-filled-up",
    ),
)
WRONG_GRADIENT = Record(
    name="wrong_gradient",
    stage="loss",
    means=(
        "The gradient of the loss is missing, or not how the loss changes: an optimiser goes where "
        "it points."
    ),
    detected=(
        "The loss is computed a little up and down its own gradient, and must rise as fast as that "
        "says."
    ),
    mend=(
        "Keep the loss attached: no detach, no item, no no_grad; check a backward function of your "
        "own."
    ),
    remedies=(DEFAULT_LOSS,),
    planted=("ctc-loss-detached",),
)
DEVICE_MISMATCH = Record(
    name="device_mismatch",
    stage="loss",
    means=(
        "The loss gives another gradient on the GPU than on the CPU. cuDNN's CTC takes some inputs "
        "and not others, in silence."
    ),
    detected="The gradient of a few clips is computed on both; without a GPU it is not examined.",
    mend="Give CTC float32 log-probabilities and int64 lengths, or compute it on the CPU.",
    remedies=(LOSS_ON_CPU, DEFAULT_LOSS),
    planted=("gpu-loss-differs",),
)

OWN_LOSS = Contract(
    name="own loss",
    holds="the loss is CTC of the clips, tokens and steps it is given",
    about="loss",
    examine=loss_is_ctc,
    finds=(
        BATCH_LEAK,
        WRONG_LOSS,
        UNNORMALISED_OUTPUT,
        LOW_PRECISION_LOSS,
        WRONG_STEPS,
        WRONG_TARGETS,
        WRONG_GRADIENT,
    ),
)
SAME_LOSS_ON_THE_GPU = Contract(
    name="same loss on the GPU",
    holds="the loss is the same on the GPU",
    about="loss",
    examine=loss_is_the_same_on_gpu,
    finds=(DEVICE_MISMATCH,),
)
