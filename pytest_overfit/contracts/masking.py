"""What must hold of train mode: what a network is shown there is, for the most part, what it is shown in eval mode."""

from __future__ import annotations

import torch

from pytest_overfit.contracts.bench import Bench
from pytest_overfit.contracts.wiring import flow
from pytest_overfit.finding import Finding

LOOKS = 8
"""Passes in train mode, each with its own randomness; two where they show little."""
PLACES = 12
"""Places of a clip that are changed where no gradient can tell."""
LITTLE = 0.25
"""Share of frames lost up to which two passes are enough."""
FRAMES, VALUES, CLIPS = 0.65, 0.8, 0.1
"""Shares of frames, of values and of whole clips, lost on average, from which a network is not shown what it must learn. Masks of
SpecAugment as published take a fifth to a third of the frames, those of wav2vec 2.0 near a half, dropout on features a half of the values."""


def input_is_shown_in_train_mode(bench: Bench) -> tuple[Finding, ...]:
    """Masking leaves most of a clip. Compared are gradients of the input in both modes, so that what a stride skips counts in neither."""
    whole = flow(bench, train=False)
    if not whole.features.any():
        return ()
    shares: list[torch.Tensor] = []
    for seed in range(bench.seed, bench.seed + LOOKS):
        shown = flow(bench, train=True, seed=seed)
        shares.append(_lost(bench, whole.features, shown.features) if shown.watched else _unanswered(bench, seed))
        if len(shares) == 2 and float(torch.stack(shares).mean((0, 1)).max()) < LITTLE:
            return ()
    lost = torch.stack(shares)
    frames, values = lost.mean((0, 1)).tolist()
    clips = _whole(lost)
    if values <= VALUES and (frames > FRAMES or clips > CLIPS):
        # A gradient that is zero may lie; a change that changes nothing does not.
        lost = torch.stack([_unanswered(bench, seed) for seed in range(bench.seed, bench.seed + LOOKS)])
        frames, clips = float(lost[:, :, 0].mean()), _whole(lost)
    if values <= VALUES and frames <= FRAMES and clips <= CLIPS:
        return ()
    return (_destroyed(frames, values, clips, len(shares) * len(bench.batch)),)


def _whole(lost: torch.Tensor) -> float:
    """Share of looks at a clip in which no frame of it was shown."""
    return float((lost[:, :, 0] == 1).double().mean())


def _lost(bench: Bench, whole: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """(clips, 2): shares of each clip's frames and values that have a gradient in eval mode and none in train mode, by count."""
    inside = torch.arange(whole.shape[1], device=whole.device) < bench.batch.frames[:, None]
    kept = [some & inside[..., None] for some in (whole, shown)]
    counts = [torch.stack([some.any(-1).sum(-1), some.sum((-1, -2))], -1).double() for some in kept]
    return (1 - counts[1] / counts[0].clamp(min=1)).clamp(min=0).cpu()


def _unanswered(bench: Bench, seed: int) -> torch.Tensor:
    """As `_lost`, where no gradient of the input can be had: the share of places at which a change of all values changes nothing."""
    batch = bench.batch
    clean, steps = bench.run(batch.features, batch.frames, train=True, seed=seed)
    silent = torch.zeros(len(batch), dtype=torch.float64)
    for place in range(PLACES):
        changed = batch.features.clone()
        where = ((place + 0.5) / PLACES * batch.frames).long()
        changed[torch.arange(len(batch)), where] += 1 + batch.features.std()
        output, _ = bench.run(changed, batch.frames, train=True, seed=seed)
        silent += torch.tensor([bool((output[:n, i] == clean[:n, i]).all()) for i, n in enumerate(steps.tolist())], dtype=torch.float64)
    return (silent / PLACES)[:, None].expand(-1, 2)


def _destroyed(frames: float, values: float, clips: float, looks: int) -> Finding:
    return Finding(
        name="input_destroyed",
        headline=f"in train mode {frames:.0%} of the frames and {values:.0%} of the values do not reach the network"
        + (f", and nothing at all of {clips:.0%} of the clips" if clips else ""),
        evidence=(f"mean of {looks} looks at clips in train mode; in eval mode they do",),
        try_="mask less: bound masks by a share of each clip's own length, or lower the dropout on the input",
        status="confirmed",
    )
