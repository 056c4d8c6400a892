"""Findings of order and place: the output must answer where the input changed, and tell one order
of frames from another.

Context from everywhere is lawful (attention, squeeze and excitation, recurrence): what is compared
is where, of all steps, the answer is strongest, relative to how each step answers to changes
anywhere.
"""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor, nn

from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench, perturbed
from pytest_overfit.findings.bench.lost_place import LostPlace, where_lost
from pytest_overfit.findings.bench.wiring import Wiring
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    PERMUTED,
    PLAIN_CALL,
    POSITIONS,
    TURNED_BACK,
    UNFLIPPED,
    WITHOUT_IT,
)
from pytest_overfit.network.observe import calibrate
from pytest_overfit.network.recorder import distance, undisturbed

PLACES = 12
"""Places at which the input is changed, one at a time."""
FEWEST_STEPS = 6
FOLLOWS = 0.7
"""Rank correlation of the place of the answer with that of the change from which one follows the
other: sound networks, of any kind tried, reach 1.0; one that reads another axis as time lies
between -0.3 and 0.5.
"""
LOOKS = 2
"""Changes tried at each place, the second where the first leaves a doubt."""
LOUD = 100.0
"""Times rounding that the output must answer somewhere, for silence elsewhere to mean anything."""
FAINT = 1e-5
"""Share of the loudest answer below which a place inside the network has not heard a change."""
MOST_TOLD = 4
"""Lines of code that a finding names."""
CLEAR = 0.9
"""Rank correlation over 12 places that chance reaches once in some thousand networks."""


def answers_follow(bench: Bench) -> tuple[Finding, ...]:
    """Where frames are changed, the output changes most: early for early ones, late for late ones.

    A network for one length may mix all of time by a learned matrix, whose places come with
    training: it is not asked.
    """
    features, steps = _alone(bench)
    if steps < FEWEST_STEPS or len(features) < PLACES or not bench.takes(len(features) * 3 // 4):
        return ()
    profile = _profile(bench, features, steps, 0)
    found = _judged(bench, features, steps, profile)
    if found or (profile is not None and not _heard(bench, profile).any()):
        # Batch norms without statistics may leave next to nothing of what a clip shows.
        with undisturbed(bench.network, train=True, seed=bench.seed):
            if calibrate(bench.subject, bench.network, bench.batch):
                profile = _profile(bench, features, steps, 0)
                return _judged(bench, features, steps, profile)
    return found


def _judged(
    bench: Bench, features: Tensor, steps: int, first: Tensor | None
) -> tuple[Finding, ...]:
    """first: the profile of the first look."""
    found: list[float] = []
    for seed in range(LOOKS):
        profile = _profile(bench, features, steps, seed) if seed else first
        if profile is None:
            continue
        heard = _heard(bench, profile)
        if not heard.all():
            if seed == 0 and int(heard.sum()) < PLACES / 2:
                return _unheard(bench, features, profile.amax(1))
            continue
        found.append(_correlation(profile))
        if found and found[0] >= CLEAR:
            return ()
    if not found or fmean(found) >= FOLLOWS:
        return ()
    backwards = fmean(found) < -FOLLOWS
    what = (
        "the output runs backwards"
        if backwards
        else "the place of the output's answer does not follow the place of what is changed"
    )
    lost = _lost(bench, features)
    return (
        PLACE_LOST.finding(
            headline=(
                f"{what}: rank correlation {fmean(found):.2f} over {PLACES} places of "
                f"{bench.clips[0].name}; 1 where it follows" + _told(lost)
            ),
            evidence=_moved(lost),
            module=lost.module if lost else None,
            samples=(bench.clips[0].name,),
            try_=(
                "check which axis the network takes for time, wherever it permutes, flattens or "
                "reshapes"
            ),
            status="confirmed",
        ),
    )


def _heard(bench: Bench, profile: Tensor) -> Tensor:
    """(places,): whether the output answers to a change at each."""
    return profile.amax(1) > 3 * bench.tolerance


def _alone(bench: Bench) -> tuple[Tensor, int]:
    """The longest clip's features (frames, dim) and the steps that it is given."""
    features = bench.clips[0].features
    log_probs, steps = bench.alone(features)
    return features, min(int(steps[0]), len(log_probs))


def _follows(answers: Tensor) -> bool:
    """Whether a place inside the network hears every change, and follows it. answers: (places,
    steps).
    """
    loudest = answers.amax(1)
    heard = bool((loudest > FAINT * loudest.max()).all())
    return answers.shape[1] >= FEWEST_STEPS and heard and _correlation(answers) >= CLEAR


def _lost(bench: Bench, features: Tensor) -> LostPlace | None:
    return where_lost(bench, features, _changes(bench, features, 0), _follows)


def _told(lost: LostPlace | None) -> str:
    return f", lost {lost}" if lost and str(lost) else ""


def _moved(lost: LostPlace | None) -> tuple[str, ...]:
    """What moves numbers where the place is lost, for a reader to look at."""
    moved = lost.moved_by[:MOST_TOLD] if lost else ()
    return (f"there: {', '.join(moved)}",) if moved else ()


def _unheard(bench: Bench, features: Tensor, answers: Tensor) -> tuple[Finding, ...]:
    """That most of the clip is forgotten before anything is put out, as of an encoder whose last
    state is all that is handed on: nothing is told where the output hardly answers at all.

    answers: (places,) how far the output moves for a change at each.
    """
    loudest = float(answers.max())
    silent = answers[answers <= 3 * bench.tolerance]
    if loudest < LOUD * bench.tolerance or bench.once(Wiring.of).frames:
        return ()  # frames that are skipped are told as such
    lost = _lost(bench, features)
    return (
        PLACE_LOST.finding(
            headline=f"the output answers to changes at {PLACES - len(silent)} of {PLACES} places "
            f"of {bench.clips[0].name} alone" + _told(lost),
            module=lost.module if lost else None,
            evidence=(
                *_moved(lost),
                f"log-probabilities move by {loudest:.2g} for one of them, and by at most "
                f"{float(silent.max()):.2g} for the others; rounding explains "
                f"{bench.tolerance:.1g}",
            ),
            samples=(bench.clips[0].name,),
            try_="look for a last state that is repeated for every step, and for what else hands on "
            "one end of a clip alone",
            status="confirmed",
        ),
    )


def _profile(bench: Bench, features: Tensor, steps: int, seed: int) -> Tensor | None:
    """(places, steps): how far the output of each step moves for a change at each place; None where
    it is not finite, or of other lengths.
    """
    answers = []
    clean, _ = bench.alone(features)
    for changed in _changes(bench, features, seed):
        output, _ = bench.alone(changed)
        if len(output) != len(clean):
            return None
        answers.append((output - clean)[:steps, 0].double().square().sum(-1).sqrt())
    profile = torch.stack(answers)
    return profile if bool(torch.isfinite(profile).all()) else None


def _changes(bench: Bench, features: Tensor, seed: int) -> list[Tensor]:
    """The clip with noise at each of the places in turn, (frames, dim) each."""
    frames, width = len(features), max(len(features) // (2 * PLACES), 1)
    generator = torch.Generator().manual_seed(bench.seed + seed)
    noise = torch.randn((width, features.shape[1]), generator=generator).to(features) * (
        features.std() + 1e-6
    )
    changes = []
    for place in range(PLACES):
        start = round(place * (frames - width) / (PLACES - 1))
        changed = features.clone()
        changed[start : start + width] += noise
        changes.append(changed)
    return changes


def _correlation(profile: Tensor) -> float:
    """Rank correlation of places and answers. profile: (places, steps)."""
    steps = profile.shape[1]
    relative = profile / profile.mean(0, keepdim=True).clamp(min=1e-3 * float(profile.mean()))
    weights = relative**4
    centres = (weights * torch.arange(steps)).sum(1) / weights.sum(1)
    places = torch.arange(PLACES, dtype=torch.double)
    return max(
        _rank_correlation(places, where.double())
        for where in (centres, relative.argmax(1), profile.argmax(1))
    )


def _rank_correlation(some: Tensor, others: Tensor) -> float:
    """Spearman's, with ties at their mean rank; 0 where one is constant."""
    one, two = (_ranks(values) - (len(values) - 1) / 2 for values in (some, others))
    size = float((one.square().sum() * two.square().sum()).sqrt())
    return float((one * two).sum()) / size if size > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below.double() + (equal.double() - 1) / 2


def order_is_seen(bench: Bench) -> tuple[Finding, ...]:
    """Frames in another order give more than the same output in that order. Frames that a stride
    takes together stay together.

    A network that sees one frame at a time is told and not failed: where each frame says what it
    is, that can be enough.
    """
    features, steps = _alone(bench)
    together = len(features) // max(steps, 1)
    count = len(features) // max(together, 1)
    features = features[: count * together]
    if count < FEWEST_STEPS or not bench.takes(len(features)):
        return ()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(bench.seed))
    first, _ = bench.alone(features)
    mixed, _ = bench.alone(features.unflatten(0, (count, together))[order].flatten(0, 1))
    if len(first) != count or len(mixed) != count:
        return ()
    gap = distance(first[order].float(), mixed.float())
    apart = distance(first.float(), mixed.float())
    if gap > 3 * bench.tolerance or gap > 0.01 * apart or apart <= bench.tolerance:
        return ()  # the last: an output that is the same at every frame shows no order
    context = _has_context(bench, features, count, together)
    table = _table_of_places(bench, features) if context else None
    return (_order_blind(bench, gap, apart, context, table),)


def _has_context(bench: Bench, features: Tensor, count: int, together: int) -> bool:
    """Whether the first half's output depends on the second half's frames."""
    cut = count // 2
    other = features.clone()
    other[cut * together :] = features[: (count - cut) * together].flip(0)
    first, _ = bench.alone(features)
    second, _ = bench.alone(other)
    return distance(first[:cut].float(), second[:cut].float()) > bench.tolerance


def _table_of_places(bench: Bench, features: Tensor) -> tuple[str, str] | None:
    """A tensor of the network's own with a row for each frame, and what becomes of it in a network
    that sees no order: "reaches nothing", or "is added alike at every frame".

    Weights of layers are none: buffers, embeddings, and parameters of classes that are not torch's.
    """
    before, _ = bench.alone(features)
    for owner, module in bench.network.named_modules():
        own = not type(module).__module__.startswith("torch.") or isinstance(module, nn.Embedding)
        tensors = [*module.named_buffers(owner, recurse=False)]
        tensors += [*module.named_parameters(owner, recurse=False)] if own else []
        for name, tensor in tensors:
            wide = [size for size in tensor.shape if size > 1]
            if not tensor.is_floating_point() or len(wide) != 2 or max(wide) < len(before):
                continue
            with perturbed(bench.network, {name}, scale=1.0, seed=bench.seed):
                after, _ = bench.alone(features)
            moved = distance(before.float(), after.float()) > bench.tolerance
            return name, "is added alike at every frame" if moved else "reaches nothing"
    return None


def _order_blind(
    bench: Bench, gap: float, apart: float, context: bool, table: tuple[str, str] | None
) -> Finding:
    what = (
        "sees other frames and not in which order they stand"
        if context
        else "sees one frame at a time, and no order"
    )
    told = f": the table of places {' '.join(table)}" if table else ""
    return ORDER_BLIND.finding(
        headline=f"the network {what}: frames in another order give the same output in that order"
        + told,
        evidence=(
            (
                f"log-probabilities differ by up to {gap:.2g} once put back in order, and by "
                f"{apart:.2g} before"
            ),
        ),
        module=table[0].rpartition(".")[0] or None if table else None,
        samples=(bench.clips[0].name,),
        try_="check that positions reach the attention, and are not masked or scaled away"
        if context
        else "give it context over time: a convolution, a recurrent layer, attention with "
        "positions",
        status="confirmed",
        severity="failure" if context else "warning",
    )


PLACE_LOST = Record(
    name="place_lost",
    stage="network",
    means="The place of the output's answer does not follow the place of what is changed in the "
    "input: another axis is taken for time, time runs "
    "backwards, or most of a clip is forgotten before anything is put out. Such a network can memorise, and will not read a clip it has not seen.",
    detected="Frames are changed at twelve places, one after another; the rank correlation of the "
    "place of the change with that of the strongest "
    "answer is 1 in a sound network, and there is an answer to each. The same is asked of what "
    "enters and leaves each module: it is lost behind the last that follows.",
    mend=(
        "Check which axis the network takes for time, wherever it permutes, flattens or reshapes, "
        "and whether the output of every step is handed on."
    ),
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "exploding_signal",
        "carried_state",
        "random_in_eval",
        "batch_leak",
        "wrong_steps",
        "input_ignored",
        "order_blind",
        "unscaled_input",
    ),
    remedies=(PERMUTED, TURNED_BACK, UNFLIPPED, PLAIN_CALL, *WITHOUT_IT),
    planted=("net-rows-as-time", "net-reshaped", "net-backwards", "net-last-state"),
    harmless=True,
)
ORDER_BLIND = Record(
    name="order_blind",
    stage="network",
    means="Frames in another order give the same output in that order: the network cannot tell "
    "what comes first. One that sees a single frame at a "
    "time is told and not failed.",
    detected=(
        "A clip's frames are shuffled, together those that a stride takes together, and the output "
        "is put back in order. A table of places that the network has is changed, to see whether it "
        "reaches anything."
    ),
    mend=(
        "Check that positions reach the attention and are not masked or scaled away; give the "
        "network context over time."
    ),
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "carried_state",
        "random_in_eval",
        "batch_leak",
        "wrong_steps",
        "input_ignored",
    ),
    remedies=(POSITIONS,),
    planted=("net-no-positions", "net-pooled"),
)

OWN_PLACE = Contract(
    name="own place",
    holds="the output answers where the input changes",
    about="network",
    examine=answers_follow,
    finds=(PLACE_LOST,),
)
SEEN_ORDER = Contract(
    name="seen order",
    holds="frames in another order give another output",
    about="network",
    examine=order_is_seen,
    finds=(ORDER_BLIND,),
)
