"""Findings of a network that writes into what it is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.network.recorder import Place, undisturbed, watched
from pytest_overfit.subject import in_precision_of


def input_is_left_alone(bench: Bench) -> tuple[Finding, ...]:
    """A batch that has been through the network twice is what it was after the first time.

    What is done to it once, as by a rectifier in place, is of no consequence for a batch that is made
    anew; what is done again and again empties one that is kept.
    """
    for train in (True, False):
        given = in_precision_of(bench.network, bench.batch.features).clone()
        _written_into(bench, given, train=train, seed=1)
        if (place := _written_into(bench, given, train=train, seed=2)) is not None:
            where = place or "the network"
            return (
                INPUT_OVERWRITTEN.finding(
                    headline=f"{where} writes into the features that it is given, in "
                    f"{'train' if train else 'eval'} mode, and again each time",
                    evidence=(
                        "a batch that is kept, or features that a data set keeps in memory, are another "
                        "thing at each step; the ladder hands it a copy each time",
                    ),
                    module=place or None,
                    try_=f"copy them first, x = x.clone(), in {where}",
                    status="confirmed",
                    severity="warning",
                ),
            )
    return ()


def _written_into(bench: Bench, given: Tensor, *, train: bool, seed: int) -> str | None:
    """The first module within which features (batch, frames, dim) become other ones, "" for the network
    itself; None where they stay as they are.
    """
    before, found = given.clone(), list[str]()

    def unchanged() -> bool:
        return bool(((given == before) | before.isnan()).all())

    def leave(place: Place, _: nn.Module, __: object) -> None:
        if not found and not unchanged():
            found.append(place[0])

    with (
        undisturbed(bench.network, train=train, seed=seed),
        torch.no_grad(),
        watched(bench.network, leave),
    ):
        bench.subject.forward(bench.network, given, bench.batch.frames)
    return None if unchanged() else (found or [""])[0]


INPUT_OVERWRITTEN = Record(
    name="input_overwritten",
    stage="network",
    means="The network writes into the features that it is given, other things each time. A batch that is "
    "kept for several steps, or features that a data set keeps in memory, are emptied bit by bit, as by "
    "masks that are set in place.",
    detected="A batch is handed to the network twice, in either mode; the second time must leave it as "
    "the first did.",
    mend="Copy the features before they are written into: x = x.clone().",
    follows=("network_fails", "non_finite_output"),
    no_remedy="the ladder hands the network a copy at each step, so that no rung breaks by it",
    planted=("net-overwrites-input",),
    harmless=True,
)

UNTOUCHED_INPUT = Contract(
    name="untouched input",
    holds="the network leaves the features that it is given as they are",
    about="network",
    examine=input_is_left_alone,
    finds=(INPUT_OVERWRITTEN,),
    may_be_meant=True,
)
