"""CTC's forward algorithm, plainly, in double precision: what every loss is held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def reference_nats(log_probs: Tensor, target: Sequence[int], *, blank: int) -> float:
    """-ln p(target | log_probs) of one clip, in nats; inf where there is no path.

    log_probs: (steps, vocabulary). Source: Graves et al. 2006, section 4.1: with the target laid
    out as blank, token, blank, token, ..., alpha_t(s) sums the paths that stand at place s after
    step t; a place is reached from itself, from the one before it, and, past a blank between two
    different tokens, from the one before that.
    """
    rows = log_probs.detach().double()
    places = [blank]
    for token in target:
        places += [token, blank]
    emitted = rows[:, places]
    skips = torch.tensor(
        [i >= 2 and places[i] != blank and places[i] != places[i - 2] for i in range(len(places))]
    )
    alpha = torch.full((len(places),), -torch.inf, dtype=torch.float64)
    alpha[:2] = emitted[0, :2]
    for step in emitted[1:]:
        one = torch.cat([alpha.new_full((1,), -torch.inf), alpha[:-1]])
        two = torch.cat([alpha.new_full((2,), -torch.inf), alpha[:-2]])[: len(alpha)]
        alpha = torch.stack([alpha, one, two.masked_fill(~skips, -torch.inf)]).logsumexp(0) + step
    return -float(alpha[-2:].logsumexp(0))
