"""What must hold first: the subject's own code runs. Where it raises, the error is a finding."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from pytest_overfit.contracts.bench import Bench
from pytest_overfit.finding import Finding
from pytest_overfit.subject import BadSample, BadSubject

TORCH = str(Path(torch.__file__).parent)


class Unexaminable(Exception):
    """A contract cannot look at this subject; the message says why. It is then neither held nor violated."""


def failed(name: str, what: str, error: Exception, *evidence: str) -> Finding:
    """An error as a finding, with the place it was raised at."""
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parents[1])
    theirs = [frame for frame in frames if not frame.filename.startswith((own, TORCH))]
    place = (theirs or frames)[-1]
    message = str(error).splitlines()[0][:400] if str(error) else type(error).__name__
    told = f"{type(error).__name__} at {place.filename}:{place.lineno}"
    if isinstance(error, BadSubject | BadSample):
        return Finding(name=name, headline=f"{what}: {message}", evidence=evidence, status="confirmed")
    return Finding(name=name, headline=f"{what}: {message}", evidence=(told, *evidence), status="confirmed")


def network_runs(bench: Bench) -> tuple[Finding, ...]:
    """The network is built and runs on its own samples; one that gives time and batch in the other order is named so."""
    if bench.failure is None:
        return ()
    swapped = _swapped(bench)
    if swapped:
        return (failed("batch_leak", "the network swaps time and batch", bench.failure, swapped),)
    return (failed("network_fails", "the network does not run on its own samples", bench.failure),)


def _swapped(bench: Bench) -> str | None:
    """Evidence that the output has its first two axes in the other order than declared."""
    if "network" not in bench.__dict__:
        return None
    with torch.no_grad():
        output, _ = bench.subject.forward(bench.network, bench.batch.features, bench.batch.frames)
    declared = bench.subject.layout
    axis = 0 if declared == "TBV" else 1
    if output.ndim == 3 and output.shape[axis] == len(bench.batch) and output.shape[2] == bench.vocabulary:
        other = "BTV" if declared == "TBV" else "TBV"
        return f"the output is {tuple(output.shape)} for {len(bench.batch)} clips, declared {declared}: try Subject(layout={other!r})"
    return None
