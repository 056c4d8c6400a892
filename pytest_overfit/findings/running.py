"""Findings of code that raises: the subject's own, by what it is about, and this tool's own."""

from __future__ import annotations

import torch

from pytest_overfit import errors
from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.leaks import BATCH_LEAK
from pytest_overfit.findings.record import About, Contract, Record
from pytest_overfit.subject import BadSample, BadSubject, in_precision_of

ADVICE = {
    "must be sorted in decreasing order": "pack with enforce_sorted=False, or give Subject(forward=...) that "
    "sorts the clips and puts their outputs back: batches come in any order",
    "expected input": "give Subject(forward=...) that turns features (batch, frames, dim) into what the "
    "network takes",
    "mat1 and mat2 shapes cannot be multiplied": "compare the width of the features with what the layer is "
    "made for; features come as (batch, frames, dim), and Subject(forward=...) may turn them",
}
"""Words of torch's errors -> what a subject is to do about them."""


class Unexaminable(Exception):
    """A contract cannot look at this subject; the message says why.

    It is then neither held nor violated.
    """


def failed(record: Record, what: str, error: Exception, *evidence: str) -> Finding:
    """An error of the subject's code as a finding, with the place it was raised at."""
    place = (
        ()
        if isinstance(error, BadSubject | BadSample)
        else (f"{type(error).__name__} at {errors.place_of(error)}",)
    )
    return record.finding(
        headline=f"{what}: {errors.first_line(error)}",
        evidence=(*place, *evidence),
        try_=next((advice for words, advice in ADVICE.items() if words in str(error)), None),
        status="confirmed",
    )


def raised(about: About, what: str, error: Exception) -> Finding:
    """What an error is a finding of. about: what was looked at.

    what: could not be done, such as "`real steps` cannot be examined".
    """
    if errors.is_ours(error):
        return own_failure(what, error)
    return failed(FAILURES[errors.part_of(error, otherwise=about)], what, error)


def own_failure(what: str, error: Exception) -> Finding:
    """This tool's own error, whole, as whoever mends it wants to see it."""
    return TOOL_FAILS.finding(
        headline=(
            f"pytest-overfit itself failed, {what}: {type(error).__name__}: "
            f"{errors.first_line(error)}"
        ),
        evidence=tuple(errors.whole(error).splitlines()),
        try_="report it with these lines: it says nothing about your network",
        status="confirmed",
    )


def network_runs(bench: Bench) -> tuple[Finding, ...]:
    """The network is built and runs on its own samples; one that gives time and batch in the other
    order is named so.
    """
    if bench.failure is None:
        return ()
    if not bench.is_built:
        return (raised("network", "the network cannot be built", bench.failure),)
    swapped = _swapped(bench)
    if swapped:
        return (failed(BATCH_LEAK, "the network swaps time and batch", bench.failure, swapped),)
    return (raised("network", "the network does not run on its own samples", bench.failure),)


def _swapped(bench: Bench) -> str | None:
    """Evidence that the output has its first two axes in the other order than declared."""
    if not bench.has_run:
        return None
    with torch.no_grad():
        output, _ = bench.subject.forward(
            bench.network,
            in_precision_of(bench.network, bench.batch.features),
            bench.batch.frames,
        )
    declared = bench.subject.layout
    axis = 0 if declared == "TBV" else 1
    if (
        output.ndim == 3
        and output.shape[axis] == len(bench.batch)
        and output.shape[2] == bench.vocabulary
    ):
        other = "BTV" if declared == "TBV" else "TBV"
        return (
            f"the output is {tuple(output.shape)} for {len(bench.batch)} clips, declared "
            f"{declared}: try Subject(layout={other!r})"
        )
    return None


NETWORK_FAILS = Record(
    name="network_fails",
    stage="network",
    means="The network cannot be built, or raises an error on its own samples.",
    detected="It is built and run on a few samples, alone and together, in train and in eval mode.",
    mend=(
        "The first line of evidence names the line that raised. What a network is given and must "
        "return stands in the documentation of Subject."
    ),
    no_remedy="there is nothing to climb with as long as it does not run",
    planted=("net-raises",),
)
DATA_FAILS = Record(
    name="data_fails",
    stage="data",
    means=(
        "A contract about the samples could not be examined, because code of the subject raised an "
        "error."
    ),
    detected="The error is caught where samples are read.",
    mend="The first line of evidence names the line that raised.",
    no_remedy="there is nothing to climb with as long as samples cannot be read",
    planted=("data-raises",),
)
LOSS_FAILS = Record(
    name="loss_fails",
    stage="loss",
    means="The subject's loss raises an error on outputs and targets that a loss must take.",
    detected="It is called on fixed outputs (steps, batch, vocabulary) with targets of several "
    "lengths.",
    mend=(
        "The first line of evidence names the line that raised. A loss takes log_probs (T, B, V), "
        "steps (B,), targets (B, L), target_lengths (B,)."
    ),
    no_remedy="a loss that raises trains nothing; to put another in its place would say nothing "
    "about it",
    planted=("ctc-loss-raises",),
)
DECODER_FAILS = Record(
    name="decoder_fails",
    stage="decoder",
    means="The subject's decoder raises an error on outputs that a decoder must take.",
    detected="It is called on the outputs of ideal paths.",
    mend=(
        "The first line of evidence names the line that raised. A decoder takes log_probs (T, B, "
        "V) and steps (B,), and returns each clip's tokens."
    ),
    no_remedy=(
        "a decoder that raises reads nothing; to put another in its place would say nothing about "
        "it"
    ),
    planted=("ctc-decoder-raises",),
)
TOOL_FAILS = Record(
    name="tool_fails",
    stage="tool",
    means="pytest-overfit itself raised an error while it looked at your subject. It says nothing "
    "about your network, and what was being looked "
    "for may be there or not.",
    detected=(
        "An error is caught around each contract, each diagnosis and each trial; the innermost "
        "line that is not a library's is ours."
    ),
    mend="Report it with the traceback in its evidence. Until it is mended, accept it.",
    no_remedy="it is no fault of the rung",
    planted=("tool-probe-raises",),
    harmless=True,
)
FAILURES: dict[About, Record] = {
    "data": DATA_FAILS,
    "loss": LOSS_FAILS,
    "decoder": DECODER_FAILS,
    "network": NETWORK_FAILS,
}

RUNNING_NETWORK = Contract(
    name="running network",
    holds="the network runs on its own samples",
    about="network",
    examine=network_runs,
    finds=(NETWORK_FAILS, BATCH_LEAK),
)
