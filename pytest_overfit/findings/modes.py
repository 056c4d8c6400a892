"""Findings between train and eval mode: what is normalised by in one must be gathered in the other,
and train mode must show the clips.
"""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.bench.wiring import flow
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    LAYER_NORM,
    LIVELY_NORM,
    NO_DROPOUT_AT_ALL,
    NO_NORM,
    UNMASKED,
)
from pytest_overfit.network.recorder import undisturbed


def statistics_are_gathered(bench: Bench) -> tuple[Finding, ...]:
    """A pass in train mode moves the running statistics of every batch norm that normalises by its
    batch there and by them in eval mode.
    """
    norms = [
        (name, module)
        for name, module in bench.network.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    with undisturbed(bench.network, train=True, seed=bench.seed), torch.no_grad():
        before = {name: _statistics(norm) for name, norm in norms}
        bench.subject.log_probs(bench.network, bench.batch.features, bench.batch.frames)
        still = [name for name, norm in norms if _gathered_nothing(before[name], _statistics(norm))]
    return (_never_gathered(bench, still, len(norms)),) if still else ()


def _statistics(norm: _BatchNorm) -> tuple[int, torch.Tensor]:
    """How many batches it has gathered from, and what."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return int(norm.num_batches_tracked), torch.cat([norm.running_mean, norm.running_var])


def _gathered_nothing(before: tuple[int, torch.Tensor], after: tuple[int, torch.Tensor]) -> bool:
    return after[0] > before[0] and torch.equal(before[1], after[1])


def _never_gathered(bench: Bench, still: list[str], norms: int) -> Finding:
    norm = bench.network.get_submodule(still[0])
    return TRAIN_EVAL_GAP.finding(
        headline=(
            f"{still[0]} normalises by the batch in train mode, and by statistics that no pass in "
            "train mode moves in eval mode"
        ),
        evidence=(f"{counted(len(still), 'batch norm')} of {norms}, momentum {norm.momentum}",),
        module=still[0],
        try_="give it a momentum above 0, or keep it in eval mode while training too",
        status="confirmed",
    )


LOOKS = 8
"""Passes in train mode, each with its own randomness; two where they show little."""
PLACES = 12
"""Places of a clip that are changed where no gradient can tell."""
LITTLE = 0.25
"""Share of frames lost up to which two passes are enough."""
FRAMES, VALUES, CLIPS = 0.65, 0.8, 0.1
"""Shares of frames, of values and of whole clips, lost on average, from which a network is not
shown what it must learn. Masks of SpecAugment as published take a fifth to a third of the frames,
those of wav2vec 2.0 near a half, dropout on features a half of the values.
"""


def input_is_shown_in_train_mode(bench: Bench) -> tuple[Finding, ...]:
    """Masking leaves most of a clip.

    Compared are gradients of the input in both modes, so that what a stride skips counts in
    neither.
    """
    whole = flow(bench, train=False)
    if not whole.features.any():
        return ()
    shares: list[torch.Tensor] = []
    for seed in range(bench.seed, bench.seed + LOOKS):
        shown = flow(bench, train=True, seed=seed)
        shares.append(
            _lost(bench, whole.features, shown.features)
            if shown.watched
            else _unanswered(bench, seed)
        )
        if len(shares) == 2 and float(torch.stack(shares).mean((0, 1)).max()) < LITTLE:
            return ()
    lost = torch.stack(shares)
    frames, values = lost.mean((0, 1)).tolist()
    clips = _whole(lost)
    if values <= VALUES and (frames > FRAMES or clips > CLIPS):
        # A gradient that is zero may lie; a change that changes nothing does not.
        lost = torch.stack(
            [_unanswered(bench, seed) for seed in range(bench.seed, bench.seed + LOOKS)]
        )
        frames, clips = float(lost[:, :, 0].mean()), _whole(lost)
    if values <= VALUES and frames <= FRAMES and clips <= CLIPS:
        return ()
    return (_destroyed(frames, values, clips, len(shares) * len(bench.batch)),)


def _whole(lost: torch.Tensor) -> float:
    """Share of looks at a clip in which no frame of it was shown."""
    return float((lost[:, :, 0] == 1).double().mean())


def _lost(bench: Bench, whole: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """(clips, 2): shares of each clip's frames and values that have a gradient in eval mode and
    none in train mode, by count.
    """
    inside = torch.arange(whole.shape[1], device=whole.device) < bench.batch.frames[:, None]
    kept = [some & inside[..., None] for some in (whole, shown)]
    counts = [torch.stack([some.any(-1).sum(-1), some.sum((-1, -2))], -1).double() for some in kept]
    return (1 - counts[1] / counts[0].clamp(min=1)).clamp(min=0).cpu()


def _unanswered(bench: Bench, seed: int) -> torch.Tensor:
    """As `_lost`, where no gradient of the input can be had: the share of places at which a change
    of all values changes nothing in train mode, of those at which it does in eval mode.
    """
    answered = ~bench.once(_silent_in_eval_mode)
    lost = _silent(bench, train=True, seed=seed) & answered
    share = lost.sum(0).double() / answered.sum(0).clamp(min=1)
    return share[:, None].expand(-1, 2)


def _silent_in_eval_mode(bench: Bench) -> torch.Tensor:
    return _silent(bench, train=False, seed=bench.seed)


def _silent(bench: Bench, *, train: bool, seed: int) -> torch.Tensor:
    """(places, clips) bool: whether a change of all values at a place changes nothing."""
    batch = bench.batch
    clean, steps = bench.run(batch.features, batch.frames, train=train, seed=seed)
    silent = torch.zeros(PLACES, len(batch), dtype=torch.bool)
    for place in range(PLACES):
        changed = batch.features.clone()
        where = ((place + 0.5) / PLACES * batch.frames).long()
        changed[torch.arange(len(batch)), where] += 1 + batch.features.std()
        output, _ = bench.run(changed, batch.frames, train=train, seed=seed)
        for i, n in enumerate(steps.tolist()):
            silent[place, i] = bool((output[:n, i] == clean[:n, i]).all())
    return silent


def _destroyed(frames: float, values: float, clips: float, looks: int) -> Finding:
    return INPUT_DESTROYED.finding(
        headline=(
            f"in train mode {frames:.0%} of the frames and {values:.0%} of the values do not reach "
            "the network"
        )
        + (f", and nothing at all of {clips:.0%} of the clips" if clips else ""),
        evidence=(f"mean of {looks} looks at clips in train mode; in eval mode they do",),
        try_=(
            "mask less: bound masks by a share of each clip's own length, or lower the dropout on "
            "the input"
        ),
        status="confirmed",
    )


TRAIN_EVAL_GAP = Record(
    name="train_eval_gap",
    stage="network",
    means="The network can do in train mode, by the statistics of the batch, what it cannot do in "
    "eval mode, by its running ones: they were never "
    "gathered, or are not those of the clips.",
    detected="A pass in train mode must move the running statistics of each batch norm; a rung "
    "that failed is read with batch statistics too, "
    "dropout aside, and the norm whose statistics are furthest off is named.",
    mend=(
        "Raise the momentum of batch norms, train with larger batches, or normalise without the "
        "batch (LayerNorm, GroupNorm)."
    ),
    remedies=(LIVELY_NORM, LAYER_NORM, NO_NORM),
    planted=("net-bn-eval",),
)
INPUT_DESTROYED = Record(
    name="input_destroyed",
    stage="network",
    means="In train mode most of a clip does not reach the network: masks or dropout on the input "
    "take it away, or whole clips. What is not shown "
    "cannot be learned.",
    detected=(
        "Frames, values and whole clips that have a gradient in eval mode and none in train mode "
        "are counted over several seeds."
    ),
    mend=(
        "Mask less: bound masks by a share of each clip's own length, or lower the dropout on the "
        "input."
    ),
    follows=("non_finite_output", "non_finite_gradient"),
    remedies=(NO_DROPOUT_AT_ALL, UNMASKED),
    planted=("train-input-dropout", "train-latents-masked", "train-clips-absent"),
)

GATHERED_STATISTICS = Contract(
    name="gathered statistics",
    holds="batch norms gather what they use in eval mode",
    about="network",
    examine=statistics_are_gathered,
    finds=(TRAIN_EVAL_GAP,),
)
SHOWN_INPUT = Contract(
    name="shown input",
    holds="train mode shows most of each clip",
    about="network",
    examine=input_is_shown_in_train_mode,
    finds=(INPUT_DESTROYED,),
)
