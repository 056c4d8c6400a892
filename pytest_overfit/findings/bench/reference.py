"""CTC's forward algorithm, plainly, in double precision: what every loss is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def reference_nats(log_probs: Tensor, target: Sequence[int], *, blank: int) -> float:
    """-ln p(target | log_probs) of one clip, in nats; inf where there is no path.

    log_probs: (steps, vocabulary). Source: Graves et al. 2006, section 4.1: with the target laid
    out as blank, token, blank, token, ..., alpha_t(s) sums the paths that stand at place s after
    step t; a place is reached from itself, from the one before it, and, past a blank between two
    different tokens, from the one before that.
    """
    rows = log_probs.detach().cpu().double().numpy()
    places = [blank]
    for token in target:
        places += [token, blank]
    emitted = rows[:, places]
    skips = [
        place >= 2 and places[place] not in (blank, places[place - 2])
        for place in range(len(places))
    ]
    alpha = np.full(len(places), -np.inf)
    alpha[:2] = emitted[0, :2]
    with np.errstate(all="ignore"):  # what is not finite in the output is not finite here
        for step in emitted[1:]:
            one, two = (np.append(np.full(by, -np.inf), alpha[:-by]) for by in (1, 2))
            passed = np.logaddexp(alpha, one)
            alpha = np.where(skips, np.logaddexp(passed, two[: len(alpha)]), passed) + step
        return -float(np.logaddexp.reduce(alpha[-2:]))
