"""Findings of lengths: the steps a network declares must be those it gives, and every target must
fit in them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pytest_overfit import ctc
from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.bench import Bench, readable
from pytest_overfit.findings.bench.timeline import Clock, is_cut, is_drawn
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    COUNT_STEPS,
    DEFAULT_BOTH,
    DEFAULT_DECODER,
    DEFAULT_LOSS,
    LEAVE_OUT,
    PLAIN_CALL,
    Remedy,
    module_remedy,
)
from pytest_overfit.findings.targets import BAD_TARGET
from pytest_overfit.host import own_randomness
from pytest_overfit.network import network_edits, subject_edits
from pytest_overfit.subject import Sample

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Rung

SHARE_LOST = 0.15
"""Share of a clip's steps that a batch may take from it, or, of the longest clip's, give it where steps
go by its share of that clip's frames, to be only told: SpeechBrain and DeepSpeech count so, and
edges are left out.
"""


def steps_are_real(bench: Bench) -> tuple[Finding, ...]:
    """Each clip's declared steps: the same alone and among longer clips, and as many as its output
    has.

    One step too few is let pass, as floor against ceil is; so are fewer where all clips are padded
    to one length inside the network. A few that go by the longest clip are a warning.
    """
    _, together = bench.run(bench.batch.features, bench.batch.frames)
    alone = [bench.alone(clip.features) for clip in bench.clips]
    fixed = (
        len({clip.frames for clip in bench.clips}) > 1
        and len({len(output) for output, _ in alone}) == 1
    )
    wrong: dict[str, str] = {}
    slight, longest, most = True, bench.clips[0].frames, int(together.max())
    for clip, (output, steps), among in zip(bench.clips, alone, together.tolist(), strict=True):
        declared, given = int(steps[0]), len(output)
        which = f"{clip.name}, {clip.frames} frames: declares {declared} steps"
        if declared > given:
            wrong[clip.name] = f"{which}, gives {given}"
        elif declared < given - 1 and not fixed:
            wrong[clip.name] = f"{which} of the {given} it gives"
        elif among != declared:
            wrong[clip.name] = f"{which} alone and {among} in a batch"
            by_share = abs(among - clip.frames / longest * most) <= 1
            most_gained = SHARE_LOST * most if by_share else 1
            slight &= -SHARE_LOST * declared <= among - declared <= most_gained
            continue
        slight &= clip.name not in wrong
    if not wrong:
        return ()
    first = next(clip for clip in bench.clips if clip.name in wrong)
    changing, counting = _changing_length(bench, first.frames), _counting(bench, together)
    way = "".join(f", {length} behind {name}" for name, length in changing)
    return (
        WRONG_STEPS.finding(
            headline="the network declares other steps than it gives: "
            f"{next(iter(wrong.values()))}",
            evidence=(
                *list(wrong.values())[:5],
                *((f"{counting} is the first to return these numbers",) if counting else ()),
                *((f"on the way: {counted(first.frames, 'frame')}{way}",) if changing else ()),
            ),
            module=counting or (changing[-1][0] if changing else None),
            samples=tuple(wrong),
            try_=(
                "compute steps from each clip's own frames, layer by layer, with the rule that its "
                "strides follow"
            ),
            status="confirmed",
            severity="warning" if slight else "failure",
        ),
    )


def _counting(bench: Bench, declared: Tensor) -> str | None:
    """The module that counts the steps which the network declares of the batch, (batch,): the first to
    return them; None where that is no module's work, or they are the frames that it was given.
    """
    if torch.equal(declared, bench.batch.frames.cpu()):
        return None
    return next(
        (
            call.module
            for call in bench.calls(bench.batch)
            if any(
                isinstance(part, Tensor)
                and part.shape == declared.shape
                and torch.equal(part.cpu().long(), declared)
                for part in (call.result if isinstance(call.result, tuple | list) else ())
            )
        ),
        None,
    )


def _changing_length(bench: Bench, frames: int) -> list[tuple[str, int]]:
    """The modules behind which a clip of so many frames has another length than before, in their
    order, each with that: what a count of steps must follow.
    """
    clock = Clock(bench=bench)
    changing, length = list[tuple[str, int]](), frames
    for index, left in sorted(clock(frames).modules.items()):
        if left != length:
            changing.append((clock.names[index], left))
            length = left
    return changing


def targets_fit(bench: Bench) -> tuple[Finding, ...]:
    """The feasibility census: every sample's tokens and repeats against the steps the network has
    for it, in shape and in substance.
    """
    census = [
        # How long it is and what it says are all that is asked: thousands need not be held.
        replace(s, features=s.features.to("meta"))
        for s in bench.samples
        if s.frames and readable(s.target, bench.vocabulary, bench.subject.blank)
    ]
    needs = {sample.name: ctc.steps_needed(sample.target.tolist()) for sample in census}
    clock = Clock(bench=bench)
    steps = clock.lengths(
        (sample.frames for sample in census),
        lambda timeline: min(timeline.declared, timeline.given),
    )
    unfit = [sample for sample in census if steps[sample.frames] < needs[sample.name]]
    impossible = [sample for sample in unfit if sample.frames < needs[sample.name]]
    if impossible:
        unfit = [sample for sample in unfit if sample.frames >= needs[sample.name]]
        return (
            _more_than_frames(census, impossible, needs),
            *([_too_short(clock, census, unfit, needs, steps)] if unfit else []),
        )
    if unfit:
        return (_too_short(clock, census, unfit, needs, steps),)
    return _hidden(clock, census, needs)


def _do_not_fit(unfit: list[Sample], census: list[Sample]) -> str:
    """ "2 of 10 targets do not fit", "1 of 1 target does not fit"."""
    verb = "does" if len(unfit) == 1 else "do"
    return f"{len(unfit)} of {counted(len(census), 'target')} {verb} not fit"


def _tightest(samples: list[Sample], needs: dict[str, int]) -> Sample:
    return max(samples, key=lambda sample: needs[sample.name] / sample.frames)


def _more_than_frames(
    census: list[Sample], impossible: list[Sample], needs: dict[str, int]
) -> Finding:
    """Targets for which even the features are too short: no stride is at fault."""
    worst = _tightest(impossible, needs)
    return BAD_TARGET.finding(
        headline=f"{len(impossible)} of {counted(len(census), 'target')} need more steps than "
        f"their clips have frames: {worst.name} has "
        f"{counted(worst.frames, 'frame')} for {counted(len(worst.target), 'token')}, which need "
        f"{needs[worst.name]}",
        evidence=tuple(
            f"{s.name}: {counted(len(s.target), 'token')}, {counted(s.frames, 'frame')}"
            for s in impossible[:5]
        ),
        samples=tuple(sample.name for sample in impossible),
        try_="check what these clips are said to say, or whether they are cut short; leave them "
        "out",
        status="confirmed",
    )


def _too_short(
    clock: Clock,
    census: list[Sample],
    unfit: list[Sample],
    needs: dict[str, int],
    steps: dict[int, int],
) -> Finding:
    worst = _tightest(unfit, needs)
    index = _first_cut(clock, worst.frames, needs[worst.name])
    left = steps[worst.frames] if index is None else clock(worst.frames).modules[index]
    who = "the network" if index is None else clock.names[index]
    shortages = [
        (
            f"{s.name}: {len(s.target)} tokens, "
            f"{counted(needs[s.name] - len(s.target), 'repeat')}, {steps[s.frames]} steps"
        )
        for s in unfit[:5]
    ]
    return TIME_COLLAPSE.finding(
        headline=f"{_do_not_fit(unfit, census)}: {who} leaves "
        f"{left} steps of {worst.frames} frames "
        f"for a target that needs {needs[worst.name]}",
        evidence=(*shortages, *_hidden_by_loss(clock.bench)),
        module=None if index is None else clock.names[index],
        samples=tuple(sample.name for sample in unfit),
        try_="lower a stride"
        if index is None
        else f"lower the stride of {clock.names[index]}, or of one before it",
        status="confirmed",
    )


def _first_cut(clock: Clock, frames: int, need: int) -> int | None:
    """The first call whose output is too short for `need` and that everything passes through."""
    short = [index for index, length in clock(frames).modules.items() if length < need]
    if not short:
        return None
    features = clock.bench.clip(frames)
    calls, *_ = clock.bench.passage(features)
    return next(
        (index for index in short if is_cut(clock.bench, calls[index], clock.nth(index), features)),
        None,
    )


def _hidden(clock: Clock, census: list[Sample], needs: dict[str, int]) -> tuple[Finding, ...]:
    """Targets that fit the output's shape, while all that it knows passes a module with fewer steps
    than they need.

    Interpolation brings nothing back; learned upsampling has to unroll one step into several
    tokens, which `Subject.tokens_a_step` allows.
    """
    allowed = clock.bench.subject.tokens_a_step
    worst = _tightest(census, needs)
    index = _first_cut(clock, worst.frames, math.ceil(needs[worst.name] / allowed))
    if index is None:
        return ()
    timeline = clock(worst.frames)
    left, name = timeline.modules[index], clock.names[index]
    if _filled_up(clock, worst.frames, index, left):
        return ()  # steps behind them are cut off, and are told of as frames that are not read
    real = clock.lengths(
        (sample.frames for sample in census), lambda timeline: timeline.modules[index]
    )
    unfit = [sample for sample in census if real[sample.frames] * allowed < needs[sample.name]]
    where = _drawn_again(clock, worst.frames, index, left)
    hidden = ", and interpolation only hides it" if where else ""
    return (
        TIME_COLLAPSE.finding(
            headline=f"{_do_not_fit(unfit, census)}: {name} leaves "
            f"{left} steps of {worst.frames} frames "
            f"for a target that needs {needs[worst.name]}{hidden}",
            evidence=(
                (
                    f"{name} leaves one step for {worst.frames / left:.0f} frames "
                    f"({worst.frames / left:.0f}x), and all that the output knows passes it"
                ),
                f"{where} holds {timeline.given} steps, drawn between {left} of its own"
                if where
                else (
                    f"the {timeline.given} steps of the output have to be unrolled from those "
                    f"{left}"
                ),
                (
                    "samples: "
                    f"{naming([f'{sample.name} ({needs[sample.name]} > {real[sample.frames]})' for sample in unfit])}"
                ),
            ),
            module=name,
            samples=tuple(sample.name for sample in unfit),
            try_=f"lower the stride of {name} or of one before it"
            + (
                ""
                if where
                else (
                    "; or state Subject.tokens_a_step, if one step is meant to stand for several "
                    "tokens"
                )
            ),
            status="suspected" if where else "confirmed",
        ),
    )


def _drawn_again(clock: Clock, frames: int, index: int, left: int) -> str | None:
    """Where, after call `index`, a longer sequence stands that was only drawn between `left` steps;
    None where none was.
    """
    bench = clock.bench
    calls, log_probs, _ = bench.passage(clock.bench.clip(frames))
    for call, other in list(zip(calls, clock.shorter(frames), strict=False))[index + 1 :]:
        for role, here, there in (
            ("the input of ", call.inputs, other.inputs),
            ("", call.outputs, other.outputs),
        ):
            if any(_drawn(a, b, left) for a, b in zip(here, there, strict=False)):
                return f"{role}{call.module}"
    rows = log_probs[:, 0].float()
    centred = rows - rows.mean(
        -1, keepdim=True
    )  # log_softmax bends what was straight, by the same for all tokens
    return (
        "the output"
        if len(rows) > left and is_drawn(centred, left, size=float(rows.abs().max()))
        else None
    )


def _filled_up(clock: Clock, frames: int, index: int, left: int) -> bool:
    """Whether, after call `index`, a longer sequence stands that holds those `left` steps, and behind
    them one and the same to its end: what is packed to fewer steps than it has comes out so.
    """
    calls, *_ = clock.bench.passage(clock.bench.clip(frames))
    return any(
        (rows := _longer(a, b, left)) is not None
        and bool((rows[left:] == rows[left]).all())
        and not bool((rows[:left] == rows[0]).all())
        for call, other in list(zip(calls, clock.shorter(frames), strict=False))[index + 1 :]
        for a, b in zip(call.inputs, other.inputs, strict=False)
    )


def _drawn(sequence: Tensor, shorter: Tensor, left: int) -> bool:
    rows = _longer(sequence, shorter, left)
    return rows is not None and is_drawn(rows, left)


def _longer(sequence: Tensor, shorter: Tensor, left: int) -> Tensor | None:
    """A sequence as (steps, channels), where it has more than `left` steps: along the one axis by which
    it is longer than that of a shorter clip.
    """
    grown = [
        axis
        for axis, (a, b) in enumerate(zip(sequence.shape, shorter.shape, strict=False))
        if a != b
    ]
    if len(grown) != 1 or sequence.shape[grown[0]] <= left:
        return None
    return sequence.movedim(grown[0], 0).flatten(1)


def _hidden_by_loss(bench: Bench) -> tuple[str, ...]:
    """What the subject's own loss says of a target that does not fit."""
    label = next(label for label in range(bench.vocabulary) if label != bench.subject.blank)
    log_probs = torch.zeros(2, 1, bench.vocabulary).log_softmax(-1)
    targets, one = torch.full((1, 3), label), torch.ones(1, dtype=torch.long)
    loss = bench.loss(log_probs, one * 2, targets, one * 3)
    if not torch.isfinite(loss):
        return (f"the loss of such a clip is {float(loss)}",)
    return (
        f"the loss hides it: {float(loss):.3g} for a clip that has no alignment (zero_infinity)",
    )


def _fits(rung: Rung) -> bool:
    """Whether every target of a rung fits in the steps that its network leaves."""
    with own_randomness():
        return not targets_fit(Bench.of(rung))


def _less_stride(rung: Rung, finding: Finding) -> Rung:
    """The stride there divided by 2, 4, ... until every target fits."""
    for by in POWERS:
        mended = module_remedy("", partial(network_edits.divide_stride, by=by)).change(
            rung, finding
        )
        if _fits(mended):
            return mended
    raise network_edits.CannotEdit(
        f"targets do not fit without a stride in {finding.module} either"
    )


def _slower(rung: Rung, _: Finding) -> Rung:
    """Each frame fed 2, 4, ...

    times until every target fits, and as often again: some room makes learning quick. No overtime:
    each step costs as many times as much, and it only stands for a smaller stride.
    """
    for times in POWERS:
        if _fits(replace(rung, subject=subject_edits.slower(rung.subject, times))):
            return replace(
                rung,
                subject=subject_edits.slower(rung.subject, 2 * times),
                recipe=replace(rung.recipe, overtime=0.0),
            )
    raise network_edits.CannotEdit(f"targets do not fit with {POWERS[-1]} times the frames either")


POWERS = (2, 4, 8, 16, 32)
LESS_STRIDE = Remedy(name="a smaller stride there", change=_less_stride)
SLOWER = Remedy(
    name="each frame fed several times, in the place of a smaller stride", change=_slower
)

WRONG_STEPS = Record(
    name="wrong_steps",
    stage="network",
    means="The steps that are declared for a clip are not those that its output has, or loss or "
    "decoder do not read those that are declared. "
    "What stands past a clip's end is then trained on, or its end is never read.",
    detected="Declared steps are compared with the output of each clip alone and in a batch; "
    "steps past the end are changed, which neither loss "
    "nor decoder may notice.",
    mend="Compute steps from each clip's own frames, layer by layer, with the rule that its "
    "strides follow; pass them as input_lengths, and cut "
    "each output to them before decoding.",
    remedies=(COUNT_STEPS, PLAIN_CALL, DEFAULT_LOSS, DEFAULT_DECODER, DEFAULT_BOTH),
    planted=(
        "ctc-input-lengths",
        "ctc-input-lengths-max",
        "ctc-input-lengths-half",
        "ctc-loss-lengths-max",
        "ctc-loss-lengths-short",
        "ctc-decoder-steps",
        "ctc-cross-entropy",
    ),
)
TIME_COLLAPSE = Record(
    name="time_collapse",
    stage="network",
    means="The network leaves fewer steps than a target needs: one for each token, and one more "
    "between equal neighbours. CTC has no path for such "
    "a clip: its loss is infinite, or, with zero_infinity, 0 without a gradient. Interpolation to "
    "more steps hides it and brings nothing back.",
    detected="The steps at every module are counted for clips of each length, and compared with "
    "what every target needs. The module is named "
    "through which all must pass and that leaves too few.",
    mend="Lower the stride of the named module, or of one before it. If one step is meant to "
    "stand for several tokens, which a learned upsampling "
    "unrolls, declare Subject(tokens_a_step=...).",
    follows=("wrong_steps", "degenerate_targets"),
    remedies=(LESS_STRIDE, SLOWER, LEAVE_OUT),
    planted=(
        "ctc-infeasible",
        "ctc-part-infeasible",
        "ctc-hidden-collapse",
        "ctc-hidden-collapse-nearest",
        "ctc-hidden-collapse-logits",
    ),
)

REAL_STEPS = Contract(
    name="real steps",
    holds="declared steps are those the network gives",
    about="network",
    examine=steps_are_real,
    finds=(WRONG_STEPS,),
)
FEASIBLE_TARGETS = Contract(
    name="feasible targets",
    holds="every target fits in the steps its clip has",
    about="network",
    examine=targets_fit,
    finds=(TIME_COLLAPSE, BAD_TARGET),
)
