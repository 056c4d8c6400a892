"""What is said of a comparison: a headline, the body of a failure, a table, GitHub's annotation and
step summary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from pytest_overfit.against.comparison import Comparison
from pytest_overfit.against.guilty import Guilty
from pytest_overfit.finding import counted
from pytest_overfit.plugin.github import escaped, escaped_property
from pytest_overfit.plugin.wording import WIDTH, labelled, percent, rendered

COLUMNS = ("samples", "verdict", "steps", "time per step", "memory per step", "parameters")
RATIOS = "ours / theirs, with the interval"
"""What stands in the columns behind the verdict: ratios without a unit."""
MEGABYTE = 1e6


def headline(comparison: Comparison) -> str:
    """One line: by how much, beyond which noise, at which rung."""
    at = f"{comparison.subject} at {_rungs(comparison)}"
    if comparison.verdict is None:
        return f"{at} was not compared with {comparison.base}: {comparison.note}"
    words = (
        [_steps_phrase(comparison)]
        if comparison.verdict == "worse" or not comparison.slower
        else []
    )
    words += [_time_phrase(comparison)] if comparison.slower else []
    verdict = "worse" if comparison.fails else comparison.verdict
    how = "as good as" if verdict == "as good" else f"{verdict} than"
    guilty = f"; since {comparison.culprit.place}" if comparison.culprit else ""
    return f"{at} is {how} {comparison.base}: {', '.join(words)}{guilty}"


def _rungs(comparison: Comparison) -> str:
    if not comparison.together:
        return counted(comparison.samples, "sample")
    *lower, last = map(str, comparison.together)
    return f"{', '.join(lower)} and {last} samples, taken together,"


def on_the_other_side(comparison: Comparison) -> str:
    """What becomes of a rung that ours breaks on the other side, to follow a headline; empty where
    it was not followed to an end.
    """
    base = comparison.base
    if not comparison.steps:
        return f"not compared with {base}"
    known = [(steps, holds) for _, _, held, steps, holds in comparison.steps if holds or not held]
    held = [steps for steps, holds in known if holds]
    if not known:
        return ""
    if not held:
        return f"{base} breaks on it too"
    if len(held) == len(known):
        return f"{base} holds on it after {counted(max(held), 'step')}"
    return f"{base} holds on it with {len(held)} of {len(known)} seeds"


def _steps_phrase(comparison: Comparison) -> str:
    if comparison.same:
        return "each step is the same to the last digit"
    never = [one for one in comparison.steps if not one[2]]
    if comparison.verdict == "worse" and len(never) == len(comparison.steps):
        theirs = max(base for _, _, _, base, _ in comparison.steps)
        ours = min(own for _, own, _, _, _ in comparison.steps)
        needs = f"{comparison.base} needs {theirs}"
        return f"not learned after {counted(ours, 'step')}; {needs}"
    if math.isinf(comparison.high) or comparison.low == 0:
        return f"{_interval(comparison.low, comparison.high)} times its steps"
    return f"{_times(comparison.ratio)} its steps ({_interval(comparison.low, comparison.high)})"


def _time_phrase(comparison: Comparison) -> str:
    time = comparison.time
    assert time is not None
    return f"{_times(time.value)} its time per step ({_interval(time.low, time.high)})"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times"


def _interval(low: float, high: float) -> str:
    if low == 0:
        return f"at most {high:.2f}" if math.isfinite(high) else "nothing is sure"
    return f"{low:.2f} to {high:.2f}" if math.isfinite(high) else f"at least {low:.2f}"


def body(comparison: Comparison) -> str:
    """All that is known of a comparison, as labelled rows."""
    rows = [("against", comparison.base)]
    rows += [("note", comparison.note)] if comparison.note else []
    if comparison.steps:
        rows.append(("steps", "\n".join(_seed_line(*one) for one in comparison.steps)))
    if comparison.verdict:
        rows.append(
            ("verdict", f"{comparison.verdict}: {_steps_phrase(comparison)}; {_error(comparison)}")
        )
    if comparison.error:
        step, ours, theirs = comparison.error
        words = f"{percent(ours)} after {counted(step, 'step')}, theirs "
        rows.append(("WER", f"{words}{percent(theirs)}"))
    if comparison.time:
        rounds = counted(comparison.time.rounds, "round")
        rows.append(("step time", f"{_time_phrase(comparison)}, from {rounds}"))
    rows += (
        [("guilty", "\n".join(map(_guilty_line, comparison.guilty)))] if comparison.guilty else []
    )
    rows += [("memory", _memory(comparison))] if comparison.memory_bytes else []
    if any(comparison.parameters):
        rows.append(("network", _parameters(comparison)))
    return "\n".join(labelled(label, text) for label, text in rows)


def _guilty_line(guilty: Guilty) -> str:
    """What putting one change back came to."""
    if guilty.confirmed:
        return f"{guilty.place}: confirmed: put back alone, the rung is {guilty.verdict}"
    why = f" ({guilty.why})" if guilty.why else ""
    verdict = "it is worse still" if guilty.verdict == "worse" else f"not decided{why}"
    return f"{guilty.place}: put back alone, {verdict}"


def _seed_line(seed: int, ours: int, held: bool, base: int, base_held: bool) -> str:
    def way(steps: int, held: bool) -> str:
        return counted(steps, "step") if held else f"not held after {counted(steps, 'step')}"

    return f"seed {seed}: {way(ours, held)}, theirs {way(base, base_held)}"


def _error(comparison: Comparison) -> str:
    """With which chance the verdict is wrong."""
    if comparison.same:
        return "nothing is left to chance"
    if not comparison.decided:
        return "the seeds were used up before a bound was passed, which accuses nobody"
    chance = f"{100 * (comparison.chance_of_error or 0):.2g} %"
    most = comparison.alpha if comparison.verdict != "as good" else comparison.beta
    least = comparison.tolerance**2 if comparison.verdict == "as good" else comparison.tolerance
    of = {
        "worse": f"of a network that takes at most {least:g} times the steps",
        "better": f"of one that takes at least 1/{least:g} of them",
        "as good": f"of one that takes {least:.3g} times the steps or more",
    }
    verdict = comparison.verdict or "as good"
    if comparison.together:
        of["worse"] += " on each of these rungs"
    return f"said {of[verdict]} with a chance of at most {100 * most:g} % (here {chance})"


def _memory(comparison: Comparison) -> str:
    ours, theirs = comparison.memory_bytes or (0, 0)
    return f"{ours / MEGABYTE:.3g} MB per step, theirs {theirs / MEGABYTE:.3g} MB"


def _parameters(comparison: Comparison) -> str:
    ours, theirs = comparison.parameters
    return f"{ours:,} parameters" + (
        f", theirs {theirs:,}" if ours != theirs else ", as many as theirs"
    )


def summary(comparisons: Sequence[Comparison], *, width: int = WIDTH) -> str:
    """A table for each subject: what each rung came to against the other side."""
    blocks = []
    for subject in dict.fromkeys(one.subject for one in comparisons):
        own = sorted(
            (one for one in comparisons if one.subject == subject), key=lambda one: one.samples
        )
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{subject} against {own[0].base}: {RATIOS}",
            title_justify="left",
            title_style="",
            pad_edge=False,
        )
        for column in COLUMNS:
            table.add_column(
                column, justify="left" if column == "verdict" else "right", overflow="fold"
            )
        for one in own:
            table.add_row(*row(one))
        lines = [
            rendered(table, width),
            *(f" {one.samples}: {one.note}" for one in own if one.note),
            *(f" {line}" for line in cached(own)),
        ]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def cached(comparisons: Sequence[Comparison]) -> list[str]:
    """How many climbs were read from the cache, where any was."""
    courses, known, elsewhere = (
        sum(getattr(one, name) for one in comparisons)
        for name in ("courses", "cached", "elsewhere")
    )
    if not known:
        return []
    other = f", {elsewhere} of them from another processor" if elsewhere else ""
    return [
        f"{known} of {counted(courses, 'climb')} from the cache{other}; times are measured anew"
    ]


def row(comparison: Comparison) -> tuple[str, ...]:
    """The cells of COLUMNS; ratios are ours over theirs."""
    if comparison.verdict is None:
        return (str(comparison.samples), "not compared", "", "", "", "")
    verdict: str = (
        "WORSE"
        if comparison.verdict == "worse"
        else "SLOWER"
        if comparison.slower
        else comparison.verdict
    )
    if comparison.together:
        verdict += f" with {', '.join(map(str, comparison.together[:-1]))}"
    time = comparison.time
    memory = _over(comparison.memory_bytes)
    return (
        str(comparison.samples),
        verdict if comparison.decided else f"{verdict} (not decided)",
        ratio_text(comparison),
        f"{time.value:.2f} ({_interval(time.low, time.high)})" if time else "",
        memory,
        _over(comparison.parameters),
    )


def ratio_text(comparison: Comparison) -> str:
    """The ratio of steps with its interval."""
    if comparison.verdict is None:
        return ""
    if comparison.same:
        return "the same"
    interval = _interval(comparison.low, comparison.high)
    if math.isfinite(comparison.high) and comparison.low:
        return f"{comparison.ratio:.2f} ({interval})"
    return interval


def _over(pair: tuple[int, int] | None) -> str:
    return f"{pair[0] / pair[1]:.2f}" if pair and pair[1] else ""


def since(comparisons: Sequence[Comparison]) -> list[str]:
    """A line for each subject that is worse: since which rung, and by how much there."""
    lines = []
    for subject in dict.fromkeys(one.subject for one in comparisons):
        worse = [one for one in comparisons if one.subject == subject and one.fails]
        if worse:
            lines.append(headline(min(worse, key=lambda one: one.samples)))
    return lines


def annotation(comparison: Comparison) -> str:
    """GitHub's annotation, at the guilty line where it is known; a warning where nothing was
    compared.
    """
    title = escaped_property(f"overfit {comparison.subject}")
    guilty = comparison.culprit
    where = f"file={escaped_property(guilty.file)},line={guilty.line}," if guilty else ""
    kind = "error" if comparison.fails else "warning"
    return f"::{kind} {where}title={title}::{escaped(headline(comparison))}"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The comparison as a table for GitHub's step summary."""
    lines = [f"### Learns as well as {comparisons[0].base}? ({RATIOS})", ""]
    lines += ["| subject | " + " | ".join(COLUMNS) + " |", "| --- " * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {one.subject} | " + " | ".join(row(one)) + " |" for one in comparisons]
    lines += ["", *(f"- **{line}**" for line in since(comparisons))]
    return "\n".join(lines) + "\n"
