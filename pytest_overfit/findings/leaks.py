"""Findings of clips that leak into each other: in eval mode a clip's output must be its own, whatever
stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import compress

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    DEFAULT_LOSS,
    FROM_HEAD,
    ONE_BY_ONE,
    ORDER_PUT_BACK,
    OTHER_AXES,
    OTHER_AXES_OF_KIND,
    OTHER_LAYOUT,
    PERMUTED,
    UNFLIPPED,
    WITHOUT_IT,
)
from pytest_overfit.network.recorder import Call, distance, undisturbed
from pytest_overfit.subject import Batch, collate


def clips_are_independent(bench: Bench) -> tuple[Finding, ...]:
    """Eval mode: a clip's output does not depend on its batch mates, in any order; nor where there
    are as many steps as clips.

    A network that sorts clips by length and back leaks in some orders only: longest first, it has
    nothing to sort. And batch norms of a fresh network do nothing in eval mode, so that one which
    is left out for a clip alone shows only with statistics as training leaves them.
    """
    found = _dependent(bench)
    norms = [
        (norm.running_mean, norm.running_var)
        for norm in bench.network.modules()
        if isinstance(norm, _BatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
    ]
    if found or not norms:
        return found
    generator = torch.Generator().manual_seed(bench.seed)
    with undisturbed(bench.network, train=False, seed=bench.seed):  # puts the statistics back
        for mean, var in norms:
            noise = torch.randn((2, *mean.shape), generator=generator).to(mean) / 2
            mean.add_(noise[0] * var.sqrt())
            var.mul_(noise[1].exp())
        return _dependent(bench)


def _dependent(bench: Bench) -> tuple[Finding, ...]:
    clips = bench.clips
    mixed = [*clips[1::2], *clips[::2]]
    orders = [clips, clips[::-1], mixed] if len(clips) > 2 else [clips, clips[::-1]]
    batches = [(order, collate(order).to(bench.device)) for order in orders]
    if (square := _square(bench)) is not None:
        batches.append(((), square))
    by_itself: dict[int, tuple[Tensor, Tensor]] = {}  # in each order padded alike
    for order, batch in batches:
        if len(batch) < 2:
            continue
        together, steps = bench.run(batch.features, batch.frames)
        for row, name in enumerate(batch.names):
            features, frames = batch.features[row : row + 1], batch.frames[row : row + 1]
            clip = id(order[row]) if order else row
            if clip not in by_itself:
                by_itself[clip] = bench.run(features, frames)
            alone, own = by_itself[clip]
            valid = min(int(steps[row]), int(own[0]))
            gap = distance(together[:valid, row].float(), alone[:valid, 0].float())
            if gap > bench.tolerance and not (order and _by_length_alone(bench, batch, row)):
                rows = together[:valid].unbind(1)
                holds = (
                    distance(one.float(), alone[:valid, 0].float()) <= bench.tolerance
                    for one in rows
                )
                elsewhere = next(compress(batch.names, holds), None)
                where = _first_leaking(bench, batch, row)
                return (_batch_leak(bench, name, gap, where, elsewhere),)
    return ()


def _others_changed(bench: Bench, batch: Batch, row: int) -> Tensor:
    """The features of a batch in which all clips but one show something else, within their
    lengths: padding stays as it is.
    """
    noise = torch.randn(batch.features.shape, generator=torch.Generator().manual_seed(bench.seed))
    others = batch.features + noise.to(batch.features) * (1 + batch.features.std())
    frames = torch.arange(batch.features.shape[1], device=others.device)
    inside = frames < batch.frames.to(others.device)[:, None]
    others = torch.where(inside[..., None], others, batch.features)
    others[row] = batch.features[row]
    return others


def _by_length_alone(bench: Bench, batch: Batch, row: int) -> bool:
    """Whether a clip's output answers to how long its batch mates are, and neither to what they
    show nor to its place among them, nor to there being any, a twin of it: they bring padding,
    which is told as such.
    """
    valid = int(batch.frames[row])

    def differs(features: Tensor, frames: Tensor, place: int) -> bool:
        output, steps = bench.run(features, frames)
        own = min(valid, int(steps[place]), len(clean))
        return distance(output[:own, place].float(), clean[:own, row].float()) > bench.tolerance

    clean, _ = bench.run(batch.features, batch.frames)
    if differs(_others_changed(bench, batch, row), batch.frames, row):
        return False
    alone, own = bench.run(batch.features[row : row + 1, :valid], batch.frames[row : row + 1])
    twins, _ = bench.run(batch.features[[row, row], :valid], batch.frames[[row, row]])
    if distance(twins[: int(own[0]), 0].float(), alone[: int(own[0]), 0].float()) > bench.tolerance:
        return False
    turned = torch.arange(len(batch)).roll(1)
    return not differs(
        batch.features[turned], batch.frames[turned.to(batch.frames.device)], (row + 1) % len(batch)
    )


def _first_leaking(bench: Bench, batch: Batch, row: int) -> tuple[str | None, str]:
    """The module to blame, in words too: the first that runs on one clip alone, or on several, only;
    or in which no clip is as it was when all but one show something else; or in which this clip's
    own numbers are nowhere, or in another's place.

    Mates keep their lengths, so padding stays as it is, and clips may stand in any order inside.
    None where nothing shows it.
    """
    calls = bench.calls(batch)
    alone, *_ = bench.passage(
        batch.features[row, : int(batch.frames[row])], padded_to=batch.features.shape[1]
    )
    together, by_itself = ({call.module for call in each} for each in (calls, alone))
    for call in (*calls, *alone):
        if call.module not in together & by_itself:
            which = "several clips" if call.module in together else "one clip alone"
            return call.module, f": {call.module} runs on {which} only"
    changed = bench.calls(batch, features=_others_changed(bench, batch, row))
    # Where mates do not matter, the clip's place in the batch does: no row is as it is alone ...
    for test, passages in ((_all_changed, (calls, changed, alone)), (_nowhere, (calls, alone))):
        leaks: Callable[..., bool] = partial(test, clips=len(batch))
        if (found := _first_where(leaks, *passages)) is None:
            continue
        module, before = found
        if not before:
            return module, f", first in {module}"
        block = _within(module, leaks, *passages)
        return block, f": they are mixed {f'in {block}, ' if block else ''}before {module}"
    # ... or another one is.
    last = _last_out_of_order(calls, alone, row, len(batch))
    return last, f", first in {last}" if last else ""


def _first_where(differs: Callable[..., bool], *passages: list[Call]) -> tuple[str, bool] | None:
    """The first module whose first input or output differs between passages, and whether it is the
    input.
    """
    for calls in zip(*passages, strict=False):
        if len({call.module for call in calls}) > 1:
            continue
        for before in (True, False):
            sides = [call.inputs if before else call.outputs for call in calls]
            if all(sides) and differs(*(side[0] for side in sides)):
                return calls[0].module, before
    return None


def _within(module: str, leaks: Callable[..., bool], *passages: list[Call]) -> str | None:
    """The innermost block around a module in which clips are mixed before it: what that is given does
    not leak yet, by the test that the module's input fails. None where that is the whole network.
    """
    block = module
    while "." in block:
        block = block.rpartition(".")[0]
        for calls in zip(*passages, strict=False):
            its_own = {call.module for call in calls} == {block}
            given = [call.inputs[0] for call in calls if call.inputs]
            if its_own and len(given) == len(calls) and not leaks(*given):
                return block
    return None


def _last_out_of_order(calls: list[Call], alone: list[Call], row: int, clips: int) -> str | None:
    """The module that is given a clip in its own row and hands it on in another, the last of them:
    those before may have been put right.
    """
    found = None
    for together, one in zip(calls, alone, strict=False):
        if together.module != one.module or not (together.inputs and together.outputs):
            continue
        before, after = (
            _row_of(some[0], own[0], clips)
            for some, own in ((together.inputs, one.inputs), (together.outputs, one.outputs))
        )
        if before == row and after not in (row, None):
            found = together.module
        elif after == row:
            found = None
    return found


def _row_of(together: Tensor, alone: Tensor, clips: int) -> int | None:
    """The one row of a batch's tensor that holds a clip's own; None where none or several do."""
    rounding = 1e-2 * float(alone.abs().max())
    for view in _by_clip(together, alone, clips):
        rows = [row for row in range(clips) if distance(view[row], alone) <= rounding]
        if len(rows) == 1:
            return rows[0]
    return None


def _by_clip(together: Tensor, alone: Tensor, clips: int) -> list[Tensor]:
    """Views of a batch's tensor with clips first, one for each way they may lie in it: along an axis
    that grows with the batch, also laid end to end with time, or between its steps.

    An axis that is merely as long as there are clips, as of a picture's rows, is none.
    """
    if together.ndim != alone.ndim:
        return []
    views = []
    for axis, (many, one) in enumerate(zip(together.shape, alone.shape, strict=True)):
        if many == clips * one:
            views.append(together.unflatten(axis, (clips, one)).movedim(axis, 0))
            views.append(together.unflatten(axis, (one, clips)).movedim(axis + 1, 0))
    return views


def _nowhere(together: Tensor, alone: Tensor, clips: int) -> bool:
    """Whether a clip's own tensor is in none of the rows of the batch's."""
    rounding = 1e-2 * float(alone.abs().max())
    rows = [row for view in _by_clip(together, alone, clips) for row in view]
    return bool(rows) and all(distance(row, alone) > rounding for row in rows)


def _all_changed(one: Tensor, other: Tensor, alone: Tensor, clips: int) -> bool:
    """Whether every clip's row differs between two batches, whichever way clips lie in them."""
    if one.shape != other.shape:
        return False
    rounding = 1e-4 * float(one.abs().max())
    views = zip(_by_clip(one, alone, clips), _by_clip(other, alone, clips), strict=True)
    pairs = [pair for view, others in views for pair in zip(view, others, strict=True)]
    return bool(pairs) and all(distance(a, b) > rounding for a, b in pairs)


def _batch_leak(
    bench: Bench, name: str, gap: float, where: tuple[str | None, str], elsewhere: str | None
) -> Finding:
    """where: as `_first_leaking` gives it. elsewhere: the clip in whose place this one's own output
    stands.
    """
    module, place = where
    order = (
        (f"what it gives alone stands in the place of {elsewhere}: clips are not put back",)
        if elsewhere
        else ()
    )
    return BATCH_LEAK.finding(
        headline=f"in eval mode the output of {name} depends on the clips beside it{place}",
        evidence=(
            f"log-probabilities differ by up to {gap:.2g} between the clip alone and in a "
            f"batch; rounding explains {bench.tolerance:.1g}",
            *order,
        ),
        module=module,
        samples=(name,),
        try_="put the clips back into the order that they came in: index what comes out by "
        "order.argsort(), or pack with enforce_sorted=False"
        if elsewhere
        else "look for swapped time and batch axes (batch_first), for an order of clips that is "
        "not put back, and for statistics taken over "
        "the batch in eval mode",
        status="confirmed",
    )


def _square(bench: Bench) -> Batch | None:
    """As many clips as steps, where cutting the clips makes it so: a swap of time and batch fits in
    shape.
    """
    count = len(bench.clips)
    shortest = min(clip.frames for clip in bench.clips)
    per_step = bench.batch.features.shape[1] / max(len(bench.outputs[0]), 1)
    frames = min(max(round(count * per_step), 1), shortest)
    features = bench.batch.features[:, :frames]
    if not bench.takes(frames):
        return None
    output, _ = bench.run(features[:1], torch.tensor([frames]))
    whole = collate(bench.clips).to(bench.device)
    cut = Batch(
        names=whole.names,
        features=features,
        frames=torch.full((count,), frames),
        targets=whole.targets,
        target_lengths=whole.target_lengths,
    )
    return cut if len(output) == count else None


BATCH_LEAK = Record(
    name="batch_leak",
    stage="network",
    means="What is said of a clip, or its gradient, depends on the clips beside it: time and "
    "batch are swapped somewhere, clips were sorted and not "
    "put back, or statistics are taken over the batch in eval mode.",
    detected="Each clip's output alone is compared with that in batches of several orders, also "
    "with as many clips as steps; likewise its gradient "
    "of the loss.",
    mend=(
        "Look for swapped axes (batch_first, layout), for an order of clips that is not put back, "
        "and for statistics over the batch."
    ),
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "exploding_signal",
        "carried_state",
        "random_in_eval",
    ),
    remedies=(
        OTHER_LAYOUT,
        ORDER_PUT_BACK,
        OTHER_AXES,
        OTHER_AXES_OF_KIND,
        PERMUTED,
        UNFLIPPED,
        DEFAULT_LOSS,
        FROM_HEAD,
        ONE_BY_ONE,
        *WITHOUT_IT,
    ),
    planted=("ctc-axes", "ctc-axes-output", "ctc-axes-square", "net-batch-mean"),
    harmless=True,
)

INDEPENDENT_CLIPS = Contract(
    name="independent clips",
    holds="a clip's output does not depend on its batch mates",
    about="network",
    examine=clips_are_independent,
    finds=(BATCH_LEAK,),
)
