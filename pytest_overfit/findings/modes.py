"""Findings between train and eval mode: what is normalised by in one must be gathered in the other,
and train mode must show the clips.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.bench.wiring import Flow, flow
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
MOST_LOOKS, SKIPPED, SELDOM = 32, 0.75, 0.5
"""Passes in train mode that layers are watched in, the share of them from which a layer is hardly
trained, and the share below which it is watched no further. Of stochastic depth the last layers are
skipped in half of the passes (Huang et al. 2016, arXiv 1603.09382), a layer of LayerDrop in up to a half
(Fan et al. 2019, arXiv 1909.11556); by chance one at a half is in 0.4 % of cases.
"""
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
    whole = bench.once(_in_eval_mode)
    if not whole.features.any():
        return ()
    shares: list[torch.Tensor] = []
    for look in range(LOOKS):
        shown = _in_train_mode(bench, look)
        shares.append(
            _lost(bench, whole.features, shown.features)
            if shown.watched
            else _unanswered(bench, bench.seed + look)
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


def _in_eval_mode(bench: Bench) -> Flow:
    return flow(bench, train=False)


def _in_train_mode(bench: Bench, look: int) -> Flow:
    """The flow of a pass in train mode with randomness of its own; the first two are kept, since
    mostly they are enough.
    """
    first = bench.once(_first_looks)
    return first[look] if look < len(first) else flow(bench, train=True, seed=bench.seed + look)


def _first_looks(bench: Bench) -> tuple[Flow, ...]:
    return tuple(flow(bench, train=True, seed=bench.seed + look) for look in range(2))


def _whole(lost: torch.Tensor) -> float:
    """Share of looks at a clip in which no frame of it was shown."""
    return float((lost[:, :, 0] == 1).double().mean())


def _lost(bench: Bench, whole: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """(clips, 2): shares of each clip's frames and values that have a gradient in eval mode and
    none in train mode, by count; 0 where none has one in eval mode.
    """
    inside = torch.arange(whole.shape[1], device=whole.device) < bench.batch.frames[:, None]
    kept = [some & inside[..., None] for some in (whole, shown)]
    counts = [torch.stack([some.any(-1).sum(-1), some.sum((-1, -2))], -1).double() for some in kept]
    return ((counts[0] - counts[1]) / counts[0].clamp(min=1)).clamp(min=0).cpu()


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


def layers_are_trained(bench: Bench) -> tuple[Finding, ...]:
    """No layer that eval mode uses is left out in most passes of train mode."""
    used = bench.once(_in_eval_mode).alive
    skipped: Counter[str] = Counter()
    for look in range(MOST_LOOKS):
        alive = _in_train_mode(bench, look).alive
        skipped.update(_without_gradient(bench, used, alive))
        if look and max(skipped.values(), default=0) < SELDOM * (look + 1):
            return ()
    often = [name for name, times in skipped.items() if times >= SKIPPED * MOST_LOOKS]
    hardly = [name for name in often if name.rpartition(".")[0] not in often]
    return (_hardly_trained(hardly, skipped),) if hardly else ()


def _without_gradient(bench: Bench, used: frozenset[str], alive: frozenset[str]) -> list[str]:
    """The modules none of whose parameters, that have a gradient in eval mode, has one."""
    below = {
        module: {name for name in used if name.startswith(f"{module}.")}
        for module, _ in bench.network.named_modules()
        if module
    }
    return [module for module, names in below.items() if names and not names & alive]


def _hardly_trained(hardly: list[str], skipped: Counter[str]) -> Finding:
    most = max(hardly, key=skipped.__getitem__)
    times = naming([f"{name} {skipped[name]}" for name in hardly])
    return LAYERS_SKIPPED.finding(
        headline=f"no gradient reaches {most} in {skipped[most]} of {MOST_LOOKS} passes in train "
        "mode; in eval mode it is used",
        evidence=(f"passes without: {times}",),
        module=most,
        try_="skip it seldom: see whether the drawn number is compared the wrong way round",
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
LAYERS_SKIPPED = Record(
    name="layers_skipped",
    stage="network",
    means="A layer is left out in most passes of train mode and used in all of eval mode, as by "
    "LayerDrop whose rate is taken for its complement: it is hardly trained, and never with those "
    "beside it.",
    detected=(
        "Of passes in train mode with different seeds, those are counted in which no gradient "
        "reaches a module that has one in eval mode: three quarters of 32 are too many."
    ),
    mend="Skip it seldom: compare the drawn number with the rate the other way round.",
    follows=("non_finite_output", "non_finite_gradient"),
    remedies=(UNMASKED,),
    planted=("train-layers-skipped",),
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
TRAINED_LAYERS = Contract(
    name="trained layers",
    holds="train mode uses the layers that eval mode uses",
    about="network",
    examine=layers_are_trained,
    finds=(LAYERS_SKIPPED,),
)
