"""Findings of what is not read of the input: columns, and frames inside clips."""

from __future__ import annotations

from torch import Tensor

from pytest_overfit import ctc
from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.bench import Bench, perturbed
from pytest_overfit.findings.bench.wiring import JITTER, Wiring
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import PLAIN_CALL, WITHOUT_IT
from pytest_overfit.network.recorder import Call, differ

EDGE = 0.1
"""Share of the columns, at either edge or behind it, that a stride over features may leave over."""


IGNORED_INSIDE = 0.1
"""Share of a clip's inner frames without any effect that max pooling, by chance, may leave; strides
without overlap leave more.
"""


def all_columns_are_read(bench: Bench) -> tuple[Finding, ...]:
    """The output depends on every column of the input."""
    wiring = bench.once(Wiring.of)
    silent, dim = wiring.columns, bench.batch.features.shape[-1]
    # A module that is never used is told with its columns.
    told = not silent or len(silent) == dim or wiring.unused
    return () if told else (_columns_ignored(wiring),)


def _columns_ignored(wiring: Wiring) -> Finding:
    """A warning where no layer is given them, each being made for what is left, or a few at the edges
    or behind a stride or a pool are left over, and no part of the input with them.
    """
    dim, silent = wiring.bench.batch.features.shape[-1], wiring.columns
    reaches, losing = _where_columns_are_lost(wiring)
    at_the_edges = all(column < EDGE * dim or column >= (1 - EDGE) * dim for column in silent)
    strides = losing and hasattr(wiring.bench.network.get_submodule(losing), "stride")
    left_over = len(silent) <= EDGE * dim and (at_the_edges or strides) and not parts_in(wiring)
    chosen = not reaches and not _any_layer_is_given(wiring, dim)
    return COLUMNS_IGNORED.finding(
        severity="warning" if left_over or chosen else "failure",
        headline=f"{len(silent)} of {dim} feature columns change nothing: {spans(silent)}"
        + parts_in(wiring),
        evidence=("they are dropped before any layer: each is made for what is left",)
        if chosen
        else (),
        module=losing,
        try_=f"check {losing}, which is given what they change and does not hand it on: a slice, or a "
        "stride or pool that leaves some of it over"
        if losing
        else "check the slices that the network takes of its input",
        status="confirmed",
    )


def _any_layer_is_given(wiring: Wiring, dim: int) -> bool:
    """Whether any module with parameters of its own is given as many features as there are."""
    return any(
        dim in tensor.shape
        for call in wiring.calls
        if any(True for _ in wiring.bench.network.get_submodule(call.module).parameters(False))
        for tensor in call.inputs
    )


def _where_columns_are_lost(wiring: Wiring) -> tuple[bool, str | None]:
    """Whether the silent columns reach a module with parameters of its own; and the first that is given
    what they change and does not answer, if any.
    """
    bench = wiring.bench
    features = bench.clips[0].features
    changed = features.clone()
    changed[:, wiring.columns] += 1 + features.std()
    given = [
        (one, other)
        for one, other in _both_ways(wiring, features, changed)
        if differ(one.inputs, other.inputs)
    ]
    learned = {
        name for name, module in bench.network.named_modules() if [*module.parameters(False)]
    }
    losing = (one.module for one, other in given if not differ(one.outputs, other.outputs))
    return any(one.module in learned for one, _ in given), next(losing, None)


def frames_ignored(wiring: Wiring, inner: int) -> Finding:
    """A warning where no gap is as long as a clip's frames for one token, as of frames skipped on
    purpose: no token is lost in it.
    """
    bench = wiring.bench
    silent = {
        clip: [frame for one, frame in wiring.frames if one == clip] for clip, _ in wiring.frames
    }
    gaps = {
        clip: max(high - low + 1 for low, high in _runs(frames)) for clip, frames in silent.items()
    }
    room = {
        clip: bench.clips[clip].frames / ctc.steps_needed(bench.clips[clip].target.tolist())
        for clip in silent
    }
    worst = max(gaps, key=lambda clip: gaps[clip] / room[clip])
    skipping, advice = _skipping(wiring)
    return SKIPPED_FRAMES.finding(
        headline=(
            f"{len(wiring.frames)} of {inner} frames change nothing: in {bench.clips[worst].name}, "
            f"frames {spans(silent[worst])}"
        ),
        evidence=(f"{gaps[worst]} of them in a row, where a token has {room[worst]:.3g} frames",),
        samples=tuple(bench.clips[clip].name for clip in silent),
        module=skipping,
        try_=advice,
        status="confirmed",
        severity="failure" if gaps[worst] >= room[worst] else "warning",
    )


def _skipping(wiring: Wiring) -> tuple[str | None, str]:
    """The first module that is given another value at a skipped frame and does not answer, if any; and
    what to look at: that, else what stands before the first that is not given it.
    """
    bench = wiring.bench
    clip = wiring.frames[0][0]
    runs = _runs([frame for one, frame in wiring.frames if one == clip])
    low, high = max(runs, key=lambda run: run[1] - run[0])
    frame = (low + high) // 2  # far from those that are read
    features = bench.clips[clip].features
    changed = features.clone()
    changed[frame] += 1 + features.std()
    silent = [
        (call, differ(call.inputs, other.inputs))
        for call, other in _both_ways(wiring, features, changed)
        if not differ(call.outputs, other.outputs)
    ]
    skipping = next((call.module for call, given in silent if given), None)
    if skipping is None:
        before = f" before {silent[0][0].module}" if silent else ""
        return None, f"check what is cut off or left out of a clip{before}"
    module = bench.network.get_submodule(skipping)
    kernel, stride = getattr(module, "kernel_size", None), getattr(module, "stride", None)
    sizes = f": its kernel is {kernel}, its stride {stride}" if kernel and stride else ""
    return skipping, f"check {skipping}, which is given these frames and does not use them{sizes}"


def _both_ways(wiring: Wiring, features: Tensor, changed: Tensor) -> list[tuple[Call, Call]]:
    """Each module's call on a clip, (frames, dim), and on it as it was changed, with noise on what is
    trained: weights of zero hand nothing on and hide what they would be given for.
    """
    bench = wiring.bench
    with perturbed(bench.network, set(wiring.trained), scale=JITTER, seed=bench.seed):
        calls, *_ = bench.passage(features)
        others, *_ = bench.passage(changed)
    return list(zip(calls, others, strict=False))


def parts_in(wiring: Wiring) -> str:
    """The parts of the input, as the subject names them, that are silent throughout: ` (left hand)`."""
    silent, dim = set(wiring.columns), wiring.bench.batch.features.shape[-1]
    parts = [
        name
        for name, where in wiring.bench.subject.parts.items()
        if set(range(dim)[where]) <= silent
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _runs(numbers: list[int]) -> list[list[int]]:
    """First and last of each run of neighbours: 1, 2, 3, 7 as (1, 3), (7, 7)."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs


def spans(numbers: list[int]) -> str:
    """1, 2, 3, 7 as 1-3, 7: the first five runs."""
    return naming([f"{low}-{high}" if high > low else f"{low}" for low, high in _runs(numbers)])


COLUMNS_IGNORED = Record(
    name="columns_ignored",
    stage="network",
    means="Some feature columns change nothing: what stands in them, such as a hand, is never read.",
    detected=(
        "Columns without a gradient in either mode are replaced by noise: the output must answer. A "
        "few, at the edges or behind a stride or a pool that leaves them over, are only told, and so are "
        "those that no layer is given, each being made for what is left."
    ),
    mend="Check the slices that the network takes of its input; accept it where they are meant.",
    follows=("non_finite_output", "non_finite_gradient", "input_ignored", "random_in_eval"),
    remedies=(PLAIN_CALL,),
    planted=("net-columns-ignored",),
    harmless=True,  # the others are read
)
SKIPPED_FRAMES = Record(
    name="skipped_frames",
    stage="network",
    means=(
        "Some frames inside clips change nothing: they are cut off, or strides jump over them. A "
        "gap as long as a token hides it."
    ),
    detected="Frames without a gradient in either mode are changed, and the output does not "
    "answer.",
    mend="Check the named module's kernel against its stride, and what is cut off before it.",
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "time_collapse",
        "wrong_steps",
        "place_lost",
        "random_in_eval",
    ),
    remedies=(PLAIN_CALL, *WITHOUT_IT),
    planted=("net-frames-ignored", "net-frames-cut"),
    harmless=True,
)

READ_COLUMNS = Contract(
    name="read columns",
    holds="the output depends on every feature column",
    about="network",
    examine=all_columns_are_read,
    finds=(COLUMNS_IGNORED,),
    may_be_meant=True,
)
