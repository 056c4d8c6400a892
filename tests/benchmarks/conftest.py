"""Prints what the benchmarks measured as one table a network, and the ratios that the README
states.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.pairs import Ratio

PHASES = ("forward", "loss", "backward", "optimiser")
RATIOS = pytest.StashKey[list[tuple[str, Ratio, str]]]()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of processor time. floor: of the arithmetic alone. reached: of all."""

    floor: float
    reached: float


COSTS = pytest.StashKey[list[tuple[str, Cost, Cost]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RATIOS] = []
    config.stash[COSTS] = []


@pytest.fixture
def ratio(request: pytest.FixtureRequest) -> Any:
    """Report a ratio by name: ratio(name, value with its noise, what it is)."""

    def note(name: str, value: Ratio, meaning: str) -> None:
        request.config.stash[RATIOS].append((name, value, meaning))

    return note


@pytest.fixture
def cost(request: pytest.FixtureRequest) -> Any:
    """Report what something costs: cost(name, its cost, that of the climb it is a share of)."""

    def note(name: str, own: Cost, climb: Cost) -> None:
        request.config.stash[COSTS].append((name, own, climb))

    return note


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    session = getattr(config, "_benchmarksession", None)
    steps: dict[tuple[str, int], dict[str, Any]] = defaultdict(dict)
    for bench in session.benchmarks if session else []:
        if "phase" in bench.extra_info:
            info = bench.extra_info
            steps[info["subject"], info["samples"]][info["phase"]] = bench.stats.median * 1e3
            steps[info["subject"], info["samples"]]["memory"] = info["memory_mib"]
    lines = []
    if steps:
        lines += [_steps_table(steps)]
    if config.stash[COSTS]:
        lines += [_cost_table(config.stash[COSTS])]
    if config.stash[RATIOS]:
        lines += [_ratio_table(config.stash[RATIOS])]
    if lines:
        terminalreporter.section("overfit benchmarks")
        terminalreporter.write_line("\n".join(lines))


def _steps_table(steps: dict[tuple[str, int], dict[str, Any]]) -> str:
    table = Table(
        box=box.SIMPLE_HEAD,
        title="one training step (ms, median)",
        title_justify="left",
        title_style="",
    )
    for column in ("subject", "samples", *PHASES, "step", "samples/s", "peak memory (MiB)"):
        table.add_column(column, justify="left" if column == "subject" else "right")
    for (subject, samples), row in steps.items():
        phases = [row.get(phase, float("nan")) for phase in PHASES]
        total = sum(phases)
        cells = [f"{value:.1f}" for value in (*phases, total, samples / total * 1e3)]
        table.add_row(subject, str(samples), *cells, f"{row['memory']:.0f}")
    return _text(table)


def _ratio_table(ratios: list[tuple[str, Ratio, str]]) -> str:
    table = Table(
        box=box.SIMPLE_HEAD, title="ratios within this run", title_justify="left", title_style=""
    )
    for column in ("ratio", "median", "95 % interval", "pairs", "meaning"):
        table.add_column(
            column, justify="left" if column in ("ratio", "meaning") else "right", overflow="fold"
        )
    for name, measured, meaning in ratios:
        table.add_row(
            name,
            f"{measured.value:.3f}",
            f"{measured.low:.3f}-{measured.high:.3f}",
            str(measured.pairs),
            meaning,
        )
    return _text(table)


def _cost_table(costs: list[tuple[str, Cost, Cost]]) -> str:
    table = Table(
        box=box.SIMPLE_HEAD,
        title="verdicts above their arithmetic (seconds of processor time, mobilenetv3)",
        title_justify="left",
        title_style="",
    )
    for column in ("what", "floor", "reached", "reached / floor", "share of the climb"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, own, climb in costs:
        table.add_row(
            name,
            f"{own.floor:.2f}",
            f"{own.reached:.2f}",
            f"{own.reached / own.floor:.2f}",
            f"{own.reached / climb.reached:.0%}",
        )
    return _text(table)


def _text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=118, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
