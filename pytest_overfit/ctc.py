"""CTC: its loss, its greedy decoder, what it can align, and the plateaus its loss stands on.

Losses are in nats per target token unless a name says otherwise. Source of CTC: Graves et al. 2006,
"Connectionist Temporal Classification".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

CLIPS_AT_ONCE = 64
"""Clips whose constant levels are sought together: a corpus would not fit in memory, and short
clips are not padded to its longest.
"""


def repeats(target: Sequence[int]) -> int:
    """How many tokens equal their left neighbour."""
    return sum(left == right for left, right in pairwise(target))


def steps_needed(target: Sequence[int]) -> int:
    """Fewest steps CTC can align `target` in: its tokens plus one blank between equal neighbours.

    Source: Graves et al. 2006, section 3.
    """
    return len(target) + repeats(target)


def clip_losses(
    log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor, *, blank: int
) -> Tensor:
    """-log p(target | clip) of each clip, in nats per clip: (batch,) float32; inf where CTC has no
    path.

    log_probs: (steps, batch, vocabulary). steps, target_lengths: (batch,). targets: (batch,
    tokens), read only up to each length. Lengths and targets go to the loss on the CPU and
    log_probs stay where they are, in float32: half precision loses the sum.
    """
    flat = torch.cat(
        [row[:length] for row, length in zip(targets.cpu(), target_lengths.tolist(), strict=True)]
    )
    return F.ctc_loss(
        log_probs.float(),
        flat.to(log_probs.device),
        steps.cpu(),
        target_lengths.cpu(),
        blank=blank,
        reduction="none",
    )


def nats_per_token(
    log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor, *, blank: int
) -> Tensor:
    """The loss this tool judges by: each clip's nats over its tokens, averaged over the clips
    (torch's reduction='mean'). Scalar.
    """
    losses = clip_losses(log_probs, steps, targets, target_lengths, blank=blank)
    return (losses / target_lengths.clamp(min=1).to(losses)).mean()


def greedy_decode(log_probs: Tensor, steps: Tensor, *, blank: int) -> list[list[int]]:
    """Best path: the arg max of each step, repeats collapsed, then blanks removed.

    log_probs: (steps, batch, vocabulary).
    """
    paths = log_probs.argmax(-1).T.cpu()
    decoded = []
    for path, length in zip(paths, steps.tolist(), strict=True):
        collapsed = torch.unique_consecutive(path[:length])
        decoded.append(collapsed[collapsed != blank].tolist())
    return decoded


def uniform_level(*, steps: int, target: Sequence[int], vocabulary: int) -> float:
    """Loss of an output that is uniform at every step: (T ln V - ln C(T + L - r, 2L)) / L.

    C(T + L - r, 2L) counts the alignments of L tokens with r adjacent repeats in T steps. Infinite
    where there is none.
    """
    tokens, doubled = len(target), repeats(target)
    if steps < tokens + doubled:
        return math.inf
    return (
        steps * math.log(vocabulary) - _log_binomial(steps + tokens - doubled, 2 * tokens)
    ) / tokens


def alignment_cost(*, steps: int, tokens: int) -> float:
    """g: nats per token that remain when labels are known but not where they stand; the best constant
    blank share is 1 - L/T.

    g = -(ln C(T, L) + L ln(L/T) + (T - L) ln(1 - L/T)) / L, about ln(2 pi L (1 - L/T)) / 2L.
    """
    if tokens >= steps:
        return 0.0
    share = tokens / steps
    return (
        -(
            _log_binomial(steps, tokens)
            + tokens * math.log(share)
            + (steps - tokens) * math.log1p(-share)
        )
        / tokens
    )


def blank_level(*, steps: int, tokens: int, vocabulary: int) -> float:
    """Loss of blanks with uniform labels between them: ln V + g."""
    return math.log(vocabulary) + alignment_cost(steps=steps, tokens=tokens)


def unigram_level(*, steps: int, tokens: int, label_entropy: float) -> float:
    """Loss of the best output that ignores its input: H(labels) + g.

    label_entropy: nats, over all tokens of the rung.
    """
    return label_entropy + alignment_cost(steps=steps, tokens=tokens)


def chance_level(hypothesis: Sequence[int], target: Sequence[int]) -> float | None:
    """Loss of an output that knows its target but for where some tokens stand; None where the
    hypothesis is not the target with tokens missing.

    In a stretch of m steps that are alike, each the event (the blank that parts two equal tokens,
    or a token among blanks) with probability q, one event has to fall by chance: m q (1 - q)^(m -
    1), at best 1 / e as m grows. So each missing token costs 1 nat, wherever it is missing, and d
    that are missing from one run of equal tokens, which share a stretch, d - d ln d + ln d!
    (Poisson with mean d: two cost 1.31). The loss is flat there: what moves from one step to
    another changes it by the square of 1 / m.
    """
    missing = _missing(hypothesis, target)
    if missing is None:
        return None
    run_of = [number for number, (_, run) in enumerate(groupby(target)) for _ in run]
    missing_of = Counter(run_of[place] for place in missing).values()
    return sum(d - d * math.log(d) + math.lgamma(d + 1) for d in missing_of) / max(len(target), 1)


def _missing(hypothesis: Sequence[int], target: Sequence[int]) -> list[int] | None:
    """Places of the target that the hypothesis leaves out; None where it holds anything else."""
    places: list[int] = []
    shown = 0
    for place, token in enumerate(target):
        if shown < len(hypothesis) and hypothesis[shown] == token:
            shown += 1
        else:
            places.append(place)
    return places if shown == len(hypothesis) else None


def best_path(log_probs: Tensor, target: Sequence[int], *, blank: int) -> Tensor:
    """The likeliest path that spells the target, with a blank between equal neighbours: (steps,)
    int64. Raises ValueError where none fits.

    log_probs: (steps, vocabulary) of one clip. Source: Viterbi over the lattice of Graves et al.
    2006.
    """
    if len(log_probs) < steps_needed(target):
        raise ValueError(
            f"no path of {len(log_probs)} steps spells a target that needs {steps_needed(target)}"
        )
    symbols = torch.full((2 * len(target) + 1,), blank)
    symbols[1::2] = torch.tensor(list(target))
    emitted = log_probs[:, symbols.to(log_probs.device)].cpu().double()
    places = torch.arange(len(symbols))
    may_skip = (places > 1) & (symbols != blank) & (symbols != symbols.roll(2))
    scores = torch.where(places < 2, emitted[0], -torch.inf)
    came_from = []
    for row in emitted[1:]:
        ways = torch.stack(
            [scores, _shifted(scores, 1), torch.where(may_skip, _shifted(scores, 2), -torch.inf)]
        )
        best, back = ways.max(0)
        came_from.append(back)
        scores = best + row
    place = len(symbols) - 1 - int(scores[-1] < scores[-2:].max())
    path = [place]
    for back in reversed(came_from):
        place -= int(back[place])
        path.append(place)
    return symbols[torch.tensor(path[::-1])]


def _shifted(scores: Tensor, by: int) -> Tensor:
    return F.pad(scores, (by, 0), value=-math.inf)[: len(scores)]


def path_loss(log_probs: Tensor, paths: Sequence[Tensor], target_lengths: Tensor) -> Tensor:
    """Frame-wise cross-entropy of one path a clip, in nats per target token, averaged: what
    `nats_per_token` cannot exceed. Scalar.

    log_probs: (steps, batch, vocabulary). paths: (steps of that clip,) int64 each.
    """
    losses = [
        F.nll_loss(log_probs[: len(path), i], path.to(log_probs.device), reduction="sum")
        for i, path in enumerate(paths)
    ]
    return (torch.stack(losses) / target_lengths.to(log_probs)).mean()


def constant_levels(
    targets: Sequence[Sequence[int]], steps: Sequence[int], *, rounds: int = 12
) -> list[float]:
    """Loss of the best output that is the same at every step, for each clip: what is known without
    knowing when.

    By expectation maximisation: p <- mean posterior over the steps, from a p full of blanks and one
    of few. Where tokens repeat in a row of few others, filling the steps with them costs less than
    setting them between blanks, and the level lies far below ln L + g. Every target must fit.
    """
    if len(targets) > CLIPS_AT_ONCE:
        parts = [
            slice(start, start + CLIPS_AT_ONCE) for start in range(0, len(targets), CLIPS_AT_ONCE)
        ]
        return [
            level
            for part in parts
            for level in constant_levels(targets[part], steps[part], rounds=rounds)
        ]
    found = _maximised(targets, steps, False, rounds)
    again = [place for place, target in enumerate(targets) if len(set(target)) < len(target)]
    few = (
        _maximised(
            [targets[place] for place in again], [steps[place] for place in again], True, rounds
        )
        if again
        else []
    )
    for place, level in zip(again, few, strict=True):
        found[place] = min(found[place], level)
    return [
        0.0 if len(target) == 1 else level for target, level in zip(targets, found, strict=True)
    ]


def _maximised(
    targets: Sequence[Sequence[int]], steps: Sequence[int], few: bool, rounds: int
) -> list[float]:
    """Each clip's tokens are numbered from 1 by themselves, so that the tables stay as narrow as
    the clip with most different tokens.
    """
    own = [
        {token: place for place, token in enumerate(dict.fromkeys(target), 1)} for target in targets
    ]
    counts = torch.zeros(len(targets), max(map(len, own)) + 1)
    rows = torch.zeros(len(targets), max(map(len, targets)), dtype=torch.long)
    for i, target in enumerate(targets):
        for j, token in enumerate(target):
            rows[i, j] = own[i][token]
            counts[i, own[i][token]] += 1
        counts[i, 0] = 0.1 * len(target) if few else max(steps[i] - len(target), 0.1)
    given, lengths = torch.tensor(steps), torch.tensor([len(target) for target in targets])
    inside = (torch.arange(int(given.max()))[:, None] < given).float()[..., None]
    share = counts / counts.sum(1, keepdim=True)
    for _ in range(rounds):
        logits = (
            share.clamp(min=1e-30).log().expand(int(given.max()), -1, -1).clone().requires_grad_()
        )
        flat = torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
        losses = F.ctc_loss(logits.log_softmax(-1), flat, given, lengths, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), logits)  # of logits: p - posterior
        share = ((share.expand(int(given.max()), -1, -1) - gradient) * inside).sum(0).clamp(
            min=0
        ) / given[:, None]
        share = share / share.sum(1, keepdim=True)
    return (losses.detach() / lengths).tolist()


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
