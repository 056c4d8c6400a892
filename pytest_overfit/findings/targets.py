"""Findings of targets: what CTC cannot read, what tells no clips apart, and labels that the network
cannot emit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pytest_overfit import ctc
from pytest_overfit.findings.bench import Bench, readable
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import FROM_HEAD, LEAVE_OUT, RELABEL, Remedy
from pytest_overfit.network.network_edits import CannotEdit

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Rung
from pytest_overfit.finding import Finding, counted, naming

FEWEST = 4
"""Targets below which a likeness is chance."""
FILLED = 0.5
"""Share of targets that end in a run of one token, from which it fills them up; real ones of one
length do so in one of ten.
"""
INSIDE = 0.1
"""Share of targets that have such a token elsewhere too, up to which it is no ordinary one."""
UNKNOWN, MOSTLY = frozenset({"unk", "oov", "unknown"}), 0.5
"""Names of the token of words that are not known, without brackets; and its share of all tokens from
which targets say next to nothing.
"""
OUT_OF_REACH = -50.0
"""A log-probability that no start has for a token it could learn: near uniform it is -ln V, about
-7.
"""


def targets_are_readable(bench: Bench) -> tuple[Finding, ...]:
    """Targets that are empty, hold the blank, or hold labels outside the vocabulary."""
    blank, vocabulary = bench.subject.blank, bench.vocabulary
    bad: dict[str, str] = {}
    for sample in bench.samples:
        labels = sample.target.tolist()
        outside = [label for label in labels if not 0 <= label < vocabulary]
        if not labels:
            bad[sample.name] = f"{sample.name}: its target is empty"
        elif outside:
            bad[sample.name] = (
                f"{sample.name}: label {outside[0]} is outside the vocabulary of {vocabulary}"
            )
        elif blank in labels:
            bad[sample.name] = (
                f"{sample.name}: the blank ({blank}) stands at position {labels.index(blank)} "
                "of its target"
            )
    if not bad:
        return ()
    return (
        BAD_TARGET.finding(
            headline=(
                f"{counted(len(bad), 'sample')} of {len(bench.samples)} {'has' if len(bad) == 1 else 'have'} a target that CTC "
                f"cannot be trained on: {naming([*bad])}"
            ),
            evidence=tuple(list(bad.values())[:5]),
            samples=tuple(bad),
            try_="rebuild the targets with this vocabulary, or leave these samples out",
            status="confirmed",
        ),
    )


def targets_differ(bench: Bench) -> tuple[Finding, ...]:
    """Not all targets are the same, of one token, or filled up to one length with an ordinary
    token.
    """
    targets = [
        s.target.tolist()
        for s in bench.samples
        if readable(s.target, bench.vocabulary, bench.subject.blank)
    ]
    if len(targets) < FEWEST:
        return ()
    if unknown := _unknown(bench, targets):
        return unknown
    tokens = {token for target in targets for token in target}
    if len(tokens) == 1:
        return (_one_token(bench, targets, tokens.pop()),)
    filler = _filler(targets)
    return () if filler is None else (_filled(bench, targets, *filler),)


def _named(bench: Bench, token: int) -> str:
    return f"{bench.subject.vocabulary[token]!r} ({token})"


def _unknown(bench: Bench, targets: Sequence[list[int]]) -> tuple[Finding, ...]:
    """Targets most of whose tokens are that of words which the vocabulary does not know."""
    names = enumerate(bench.subject.vocabulary)
    unknown = {token for token, name in names if name.strip("<>[]_ ").lower() in UNKNOWN}
    counts = Counter(token for target in targets for token in target if token in unknown)
    said, of = counts.total(), sum(map(len, targets))
    if not said or said < MOSTLY * of:
        return ()
    token = counts.most_common(1)[0][0]
    return (
        DEGENERATE_TARGETS.finding(
            headline=f"{said} of {counted(of, 'token')} of the targets are {_named(bench, token)}: "
            "words that the vocabulary does not know",
            evidence=("a network passes that knows none of them",),
            try_="look how labels are spelled, and how the vocabulary spells them: capitals, blanks, "
            "accents, a prefix",
            status="confirmed",
        ),
    )


def _one_token(bench: Bench, targets: Sequence[list[int]], token: int) -> Finding:
    """A warning where lengths differ: how often something happens can be counted by one token."""
    same = len({len(target) for target in targets}) == 1
    return DEGENERATE_TARGETS.finding(
        headline=f"all {len(targets)} targets are made of {_named(bench, token)} alone"
        + (", of one length" if same else ""),
        evidence=("a network passes without looking at a clip",)
        if same
        else ("they differ in length alone",),
        try_="check how labels became tokens",
        status="confirmed",
        severity="failure" if same else "warning",
    )


def _filler(targets: Sequence[list[int]]) -> tuple[int, str, list[int]] | None:
    """A token that fills targets of one length at their end, or their beginning: (token, where, run
    of each target).
    """
    if len({len(target) for target in targets}) > 1:
        return None
    for where, turned in (("end", [target[::-1] for target in targets]), ("beginning", targets)):
        token, _ = Counter(target[0] for target in turned).most_common(1)[0]
        runs = [_run(target, token) for target in turned]
        inside = sum(token in target[run:] for target, run in zip(turned, runs, strict=True))
        if sum(run >= 2 for run in runs) >= FILLED * len(turned) and inside <= INSIDE * len(turned):
            return token, where, runs
    return None


def _run(target: list[int], token: int) -> int:
    """How many times a target begins with the token."""
    return next((place for place, other in enumerate(target) if other != token), len(target))


def _filled(
    bench: Bench, targets: Sequence[list[int]], token: int, where: str, runs: Sequence[int]
) -> Finding:
    low, high = min(runs), max(runs)
    needed = [ctc.steps_needed(target) for target in targets]
    own = [ctc.steps_needed([other for other in target if other != token]) for target in targets]
    return DEGENERATE_TARGETS.finding(
        headline=(
            f"all {len(targets)} targets are {counted(len(targets[0]), 'token')} long, filled up "
            f"at their {where} with {_named(bench, token)}"
        ),
        evidence=(
            f"it stands {low} to {high} times in a row at the {where}, and hardly ever elsewhere",
            (
                f"they need up to {max(needed)} steps so, and up to {max(own)} without it: a run "
                "needs a blank between each two"
            ),
        ),
        try_=f"leave {_named(bench, token)} out of the targets: each has a length of its own",
        status="confirmed",
    )


def labels_are_in_reach(bench: Bench) -> tuple[Finding, ...]:
    """No token of a target is ruled out at every step, as by a mask on the logits, in train or eval
    mode.
    """
    for train in (False, True):
        log_probs, steps = bench.run(bench.batch.features, bench.batch.frames, train=train)
        steps = steps.clamp(max=len(log_probs))
        rows = torch.cat([log_probs[: int(n), clip] for clip, n in enumerate(steps)]).double()
        if rows.isnan().any() or not len(rows):
            return ()
        best = rows.amax(0)
        lost = best < OUT_OF_REACH
        if not lost.any() or lost.all() or float(rows[:, ~lost].amin(0).median()) < OUT_OF_REACH:
            continue  # a start that is sure of everything has another name
        samples = {
            s.name: [t for t in s.target.tolist() if 0 <= t < len(lost) and lost[t]]
            for s in bench.samples
        }
        hit = {name: tokens for name, tokens in samples.items() if tokens}
        if hit:
            return (_out_of_reach(bench, hit, best, train),)
    return ()


def _out_of_reach(
    bench: Bench, hit: dict[str, list[int]], best: torch.Tensor, train: bool
) -> Finding:
    tokens = sorted({token for lost in hit.values() for token in lost})
    return UNREACHABLE_LABEL.finding(
        headline=f"no step can emit {naming([_named(bench, token) for token in tokens])}, which "
        "the targets of "
        f"{counted(len(hit), 'sample')} of {len(bench.samples)} hold: "
        f"{'its' if len(tokens) == 1 else 'their'} logits are masked",
        evidence=(
            (
                f"its log-probability is at most {float(best[tokens[0]]):.3g} at any step of any "
                f"clip, in {'train' if train else 'eval'} mode"
            ),
            "a clip that holds it has an infinite loss, or as good as that",
        ),
        samples=tuple(hit),
        try_="leave these tokens out of the mask, or out of the targets",
        status="confirmed",
    )


def _unfilled(rung: Rung, _: Finding) -> Rung:
    """The rung whose targets end, or begin, where what fills them up does."""
    samples = rung.subject.offered(rung.samples)
    filler = _filler([sample.target.tolist() for sample in samples])
    if filler is None:
        raise CannotEdit("the targets are not filled up, but alike")
    where, runs = filler[1:]
    cut = [
        s.target[: len(s.target) - run] if where == "end" else s.target[run:]
        for s, run in zip(samples, runs, strict=True)
    ]
    if not all(len(target) for target in cut):
        raise CannotEdit("nothing is left of a target")
    own = [replace(sample, target=target) for sample, target in zip(samples, cut, strict=True)]
    return replace(rung, subject=replace(rung.subject, samples=own))


UNFILLED = Remedy(name="targets without what fills them up", change=_unfilled)

BAD_TARGET = Record(
    name="bad_target",
    stage="data",
    means="Some targets cannot be trained on: they are empty, hold the blank or a label outside "
    "the vocabulary, or need more steps than their "
    "clip has frames. CTC reads a label out of bounds without complaint, and has no path for a "
    "target that is too long.",
    detected=(
        "Every target is read, and counted against the frames of its clip: a step for each token, "
        "and one between equal neighbours."
    ),
    mend=(
        "Rebuild the targets with this vocabulary, without blanks; check clips that are cut short; "
        "leave the others out."
    ),
    remedies=(*RELABEL, LEAVE_OUT),
    planted=("ctc-blank-target", "ctc-label-range", "ctc-empty-target"),
)
DEGENERATE_TARGETS = Record(
    name="degenerate_targets",
    stage="data",
    means="The targets do not tell clips apart, or are filled up to one length with an ordinary "
    "token. A network then passes without looking at "
    "a clip, or has to spell padding, which needs a blank between each two.",
    detected=(
        "The targets are compared: one token in all of them, most of them words that are not known, or "
        "one length with the same run at every end or beginning."
    ),
    mend=(
        "Check how labels became tokens; leave the filling out, so that each target has a length "
        "of its own."
    ),
    remedies=(UNFILLED,),
    planted=("data-filled", "data-one-token", "data-filled-in-front", "data-unknown"),
    harmless=True,
)
UNREACHABLE_LABEL = Record(
    name="unreachable_label",
    stage="network",
    means="No step can emit a label that targets hold, because a mask on the logits rules it out. "
    "Such a clip has an infinite loss, or as good "
    "as that.",
    detected=(
        "The largest log-probability that each label of a target reaches in a fresh network, in "
        "both modes, is far below what any start has."
    ),
    mend="Leave these tokens out of the mask, or out of the targets.",
    follows=("non_finite_output", "non_finite_gradient", "blank_prior"),
    remedies=(FROM_HEAD, LEAVE_OUT),
    planted=("head-masked-labels", "head-masked-label"),
)

READABLE_TARGETS = Contract(
    name="readable targets",
    holds="every target has tokens, all in the vocabulary, none blank",
    about="data",
    examine=targets_are_readable,
    finds=(BAD_TARGET,),
)
TELLING_TARGETS = Contract(
    name="telling targets",
    holds="targets differ, and no ordinary token fills them up",
    about="data",
    examine=targets_differ,
    finds=(DEGENERATE_TARGETS,),
)
LABELS_IN_REACH = Contract(
    name="labels in reach",
    holds="every label of a target can be emitted",
    about="network",
    examine=labels_are_in_reach,
    finds=(UNREACHABLE_LABEL,),
)
