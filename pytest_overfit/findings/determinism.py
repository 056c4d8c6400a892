"""Findings of a network that is not the same each time in eval mode: the same clip must give the same
output, whatever ran before and whatever the seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable
from functools import partial

import numpy as np
import torch
from torch import nn

from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    NO_DROPOUT_AT_ALL,
    NOISELESS,
    PLAIN_CALL,
    STATELESS,
    WITHOUT_IT,
)
from pytest_overfit.network.recorder import distance, first_apart, recorded
from pytest_overfit.subject import Batch, collate

Generator = random.Random | np.random.RandomState | np.random.Generator | torch.Generator


def output_is_repeatable(bench: Bench) -> tuple[Finding, ...]:
    """Eval mode gives the same output each time: with the same seed, whatever ran before; and with
    any seed.
    """
    whole = collate(bench.clips[:1]).to(bench.device)
    for batch, seeds in ((bench.batch, (2,)), (whole, (2, 3, 4, 5))):
        first = bench.run(batch.features, batch.frames, seed=1)[0]
        if first.isnan().any():
            continue  # no number is equal to itself, then; what makes it so is told as that
        bench.run(-batch.features, batch.frames)  # what it leaves behind must not show
        other = next(
            (
                seed
                for seed in seeds
                if not torch.equal(first, bench.run(batch.features, batch.frames, seed=seed)[0])
            ),
            None,
        )
        if other is None:
            continue
        for record, seed in ((CARRIED_STATE, 1), (RANDOM_IN_EVAL, other)):
            bench.run(-batch.features, batch.frames)
            again = bench.run(batch.features, batch.frames, seed=seed)[0]
            gap = distance(first.float(), again.float())
            if gap > bench.tolerance:
                calls = bench.calls(batch, seed=1)
                bench.run(-batch.features, batch.frames)
                module = first_apart(calls, bench.calls(batch, seed=seed))
                own = _generators(bench.network) if record is CARRIED_STATE else {}
                if own and _repeats_with(own.values(), bench, batch):
                    return (_not_repeatable(RANDOM_IN_EVAL, gap, module, own),)
                return (_not_repeatable(record, gap, module),)
    return _carried_in_buffers(bench)


def _generators(network: nn.Module) -> dict[str, Generator]:
    """Generators of random numbers that modules keep as their own, by their names."""
    return {
        f"{name}.{attribute}".lstrip("."): value
        for name, module in network.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, Generator)
    }


def _repeats_with(generators: Iterable[Generator], bench: Bench, batch: Batch) -> bool:
    """Whether the output is the same each time, whatever ran before, once these stand where they stood."""
    put_back = [_restorer(generator) for generator in generators]
    outputs = []
    for other in (batch.features, -batch.features):
        bench.run(other, batch.frames)
        for restore in put_back:
            restore()
        outputs.append(bench.run(batch.features, batch.frames, seed=1)[0].float())
    for restore in put_back:
        restore()
    return distance(*outputs) <= bench.tolerance


def _restorer(generator: Generator) -> Callable[[], object]:
    """What puts a generator back to where it stands."""
    match generator:
        case random.Random():
            return partial(generator.setstate, generator.getstate())
        case np.random.RandomState():
            return partial(generator.set_state, generator.get_state())
        case np.random.Generator():
            return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
        case torch.Generator():
            return partial(generator.set_state, generator.get_state())


def _carried_in_buffers(bench: Bench) -> tuple[Finding, ...]:
    """A network that writes into its buffers in eval mode, so that a batch is read otherwise after
    another one. `Bench.run` puts buffers back.
    """
    if not any(True for _ in bench.network.buffers()):
        return ()
    features, frames = bench.batch.features, bench.batch.frames
    runs = ((features, frames), (-features, frames), (features, frames))
    first, _, again = (log_probs.float() for log_probs, _ in bench.in_a_row(*runs, seed=1))
    gap = distance(first, again)
    if not bench.tolerance < gap < math.inf:
        return ()
    with recorded(bench.network) as calls:
        bench.in_a_row(*runs, seed=1)
    a_run = len(calls) // len(runs)
    return (_not_repeatable(CARRIED_STATE, gap, first_apart(calls[:a_run], calls[-a_run:])),)


def _not_repeatable(
    record: Record, gap: float, module: str | None, own: Collection[str] = ()
) -> Finding:
    """own: generators of its own that the network draws from."""
    first = f", first in {module}" if module else ""
    carried = record is CARRIED_STATE
    what = (
        "the same input, the same seed, and another output"
        if carried
        else "another output with each call"
        if own
        else "another output with each seed"
    )
    return record.finding(
        headline=f"{what} in eval mode: log-probabilities differ by up to {gap:.2g}{first}",
        module=module,
        evidence=tuple(f"{name} is a generator of its own, which no seed reaches" for name in own),
        try_="start every call from a state of its own: nothing of one batch may reach the next"
        if carried
        else "tie dropout and other noise to self.training",
        status="confirmed",
    )


CARRIED_STATE = Record(
    name="carried_state",
    stage="network",
    means=(
        "The network keeps something from call to call, so that the same clip with the same seed "
        "gives another output after other clips."
    ),
    detected="A batch is run twice with one seed in eval mode, and other clips in between.",
    mend="Start every call from a state of its own: nothing of one batch may reach the next. Write "
    "into buffers in train mode alone.",
    follows=("non_finite_output", "non_finite_gradient"),
    remedies=(STATELESS,),
    planted=("net-carried-state",),
)
RANDOM_IN_EVAL = Record(
    name="random_in_eval",
    stage="network",
    means="The network is random in eval mode: what it says of a clip hangs on the seed.",
    detected="A batch is run twice in eval mode, with two seeds, and with one where modules keep "
    "generators of their own.",
    mend="Tie dropout and other noise to self.training.",
    follows=("non_finite_output", "non_finite_gradient"),
    remedies=(NO_DROPOUT_AT_ALL, NOISELESS, PLAIN_CALL, *WITHOUT_IT),
    planted=("net-dropout-in-eval",),
)

REPEATABLE_OUTPUT = Contract(
    name="repeatable output",
    holds="eval mode gives the same output each time",
    about="network",
    examine=output_is_repeatable,
    finds=(CARRIED_STATE, RANDOM_IN_EVAL),
)
