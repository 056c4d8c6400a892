"""Pictures: what is drawn is what was logged, onsets and levels stand where they belong, and
nothing overlaps, whatever the log holds.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec, module_from_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from pytest_overfit.finding import Finding
from pytest_overfit.health.checkup import check_up
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.panels import DRAWN, thinned
from pytest_overfit.health.pictures import best, draw, emitted_in, save_pictures, to_tensorboard
from pytest_overfit.health.run import Facts, Prediction, Run
from tests.health.made_runs import LEVELS, SICK, SOUND


def curve(at: Sequence[float], values: Sequence[float]) -> Curve:
    return Curve(at=tuple(map(float, at)), values=tuple(map(float, values)))


def team() -> Run:
    """The figures of the team whose runs began all this."""
    at = [1, 25, 50, 60]
    read = Prediction(at=60, split="val", target=tuple("ABCDEFGHIJ"), prediction=("A",))
    curves = {
        "train_loss": curve(at, [44.59, 4.19, 2.87, 2.36]),
        "val_loss": curve(at, [7.19, 4.90, 4.96, 5.29]),
        "train_wer": curve([60], [0.827]),
        "val_wer": curve([25, 50, 60], [0.921, 0.908, 0.915]),
    }
    return Run(name="teacher", curves=curves, predictions=(read,) * 4)


def long_noisy() -> Run:
    """Twenty thousand steps with a spike of one and a NaN."""
    rng = np.random.default_rng(0)
    train = 6 * np.exp(-np.arange(20_000) / 3000) + 1 + 0.1 * rng.random(20_000)
    train[7777], train[15_000] = 19, math.nan
    val = 6 * np.exp(-np.arange(0, 20_000, 50) / 3000) + 1.3
    return Run(
        name="steps " * 30,
        clock="step",
        curves={
            "train_loss": curve(range(20_000), train),
            "val_loss": curve(range(0, 20_000, 50), val),
        },
    )


NAN, INF = math.nan, math.inf
RUNS: dict[str, Run] = {
    "team": team(),
    "long and noisy": long_noisy(),
    **{kind: make(np.random.default_rng(1)) for kind, (make, _) in SICK.items()},
    "healthy": SOUND["steady"](np.random.default_rng(1)),
    "one reading": Run(
        name="one", curves={"train_loss": curve([1], [4.0]), "val_loss": curve([1], [5.0])}
    ),
    "nothing": Run(name=""),
    "only predictions": Run(name="said", predictions=team().predictions),
    "never finite": Run(
        name="nan",
        curves={"train_loss": curve([1, 2], [NAN, INF]), "val_loss": curve([1, 2], [NAN, NAN])},
    ),
    "a hole": Run(
        name="hole",
        curves={
            "train_loss": curve(range(9), [5, 4, NAN, NAN, 3, 2, -INF, 1, 1]),
            "lr": curve(range(9), [0] * 9),
        },
    ),
    "negative": Run(name="raw logits", curves={"train_loss": curve(range(4), [124, 3, 0, -0.24])}),
    "all alike": Run(
        name="$a_b$",
        curves={"train_loss": curve(range(4), [5] * 4), "val_loss": curve(range(4), [5] * 4)},
    ),
    "levels": Run(
        name="levels",
        curves={"val_loss": curve(range(4), [110, 8, 7.2, 7.1])},
        facts=Facts(levels={"val": LEVELS}),
    ),
    "all alike at 1": Run(
        name="x" * 300,
        curves={
            f"{split}_{name}": curve(range(4), [1] * 4)
            for split in ("train", "val")
            for name in ("emission_ratio", "blank_share", "wer")
        },
    ),
}


def words(figure: Figure) -> list[Text]:
    """Every text that is seen, ticks aside."""
    ticks = {
        label
        for ax in figure.axes
        for label in (*ax.get_xticklabels(which="both"), *ax.get_yticklabels(which="both"))
    }
    found = (text for text in figure.findobj(Text) if isinstance(text, Text) and text not in ticks)
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def drawn(name: str, **given: Any) -> Figure:
    return draw(RUNS[name], check_up(RUNS[name]), **given)


@pytest.mark.parametrize("name", RUNS)
def test_no_words_overlap_or_leave_the_picture(name: str) -> None:
    figure = drawn(name, expected_blank_share=0.94)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in words(figure)]
    width, height = figure.get_size_inches() * figure.dpi
    assert width == 1200
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
    for (one, first), (other, second) in combinations(boxes, 2):
        overlap = (
            min(first.x1, second.x1) - max(first.x0, second.x0),
            min(first.y1, second.y1) - max(first.y0, second.y0),
        )
        assert min(overlap) <= 1, (one, other)


def test_the_best_epoch_and_the_onset_of_each_finding_are_marked() -> None:
    checkup = check_up(team())
    figure = draw(team(), checkup)
    upright = {
        line.get_xdata()[0]
        for line in figure.axes[0].get_lines()
        if len(line.get_xdata()) == 2 and len(set(line.get_xdata())) == 1
    }  # type: ignore[arg-type, index]
    assert upright == {finding.began for finding in checkup.findings} | {25.0}
    texts = [text.get_text() for text in words(figure)]
    assert "best validation loss: 4.90 at epoch 25" in texts
    assert "teacher: stop" in texts
    assert "validation 5.29, gap +2.93" in texts
    for finding in checkup.findings:
        assert any(finding.name in text for text in texts)


def test_findings_that_begin_together_share_a_place_and_each_keeps_its_number() -> None:
    run = RUNS["healthy"]
    checkup = check_up(run)
    found = tuple(
        Finding(name=f"bad_{n}", headline="it is bad", began=began)
        for n, began in enumerate((5.0, 5.0, 6.0, 60.0, None))
    )
    object.__setattr__(checkup, "findings", found)
    figure = draw(run, checkup)
    assert [
        text.get_text()
        for text in figure.axes[0].texts
        if text.get_text().replace(",", "").isdigit()
    ] == ["1,2,3", "4"]
    assert "bad_4: it is bad" in [text.get_text() for text in words(figure)]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((500, 2), "log"),
        ((5, 2), "linear"),
        ((500, -1), "linear"),
        ((500, 0), "linear"),
        ((1e30, 1), "log"),
    ],
)
def test_the_loss_is_drawn_on_a_logarithmic_axis_where_it_spans_much(
    values: tuple[float, float], scale: str
) -> None:
    figure = draw(Run(name="a", curves={"train_loss": curve([1, 2], values)}))
    assert figure.axes[0].get_yscale() == scale


def test_levels_are_named_where_the_curves_come_near_them() -> None:
    texts = [text.get_text() for text in words(drawn("levels"))]
    assert {
        "level uniform 115",
        "level blank 7.10",
        "level unigram 5.50",
        "loss (nats per target token)",
    } <= set(texts)
    assert not any("bag of clip" in text or "aligned" in text for text in texts)


def test_there_is_a_panel_for_each_kind_of_metric_that_the_log_has() -> None:
    panels = {
        name: [ax.get_title(loc="left") for ax in drawn(name).axes]
        for name in ("team", "nothing", "all alike at 1", "a hole")
    }
    assert panels == {
        "team": ["loss", "error rate", "emitted / target tokens"],
        "nothing": [],
        "all alike at 1": ["error rate", "emitted / target tokens", "blank share"],
        "a hole": ["loss", "learning rate"],
    }


def test_a_log_without_curves_says_so() -> None:
    assert "the log has no curve that can be drawn" in [
        text.get_text() for text in words(drawn("nothing"))
    ]


def test_what_is_not_finite_is_marked_where_it_is() -> None:
    crosses = [line for line in drawn("a hole").axes[0].get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[2, 3, 6]]  # type: ignore[arg-type]


def test_the_expected_blank_share_is_drawn() -> None:
    figure = drawn("all alike at 1", expected_blank_share=0.94)
    assert any("expected, 1 - L/T: 0.940" in text.get_text() for text in words(figure))


def test_emitted_tokens_come_from_the_predictions_where_no_metric_tells_them() -> None:
    shown = (
        Prediction(at=2, split="val", target=("a", "b"), prediction=("a",)),
        Prediction(at=1, split="val", target=("a", "b"), prediction=()),
        Prediction(at=2, split="val", target=("a", "b"), prediction=("a", "b")),
        Prediction(at=None, split="val", target=("a",), prediction=()),
        Prediction(at=3, split="elsewhere", target=(), prediction=("a",)),
    )
    found = emitted_in(Run(name="a", predictions=shown))
    assert {split: (one.at, one.values) for split, one in found.items()} == {
        "val": ((1, 2), (0.0, 0.75)),
        "": ((3,), (1.0,)),
    }


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=400),
    st.integers(4, 60),
)
def test_a_thinned_line_keeps_its_ends_its_lowest_and_its_highest(
    values: list[float], most: int
) -> None:
    at, kept = thinned(curve(range(len(values)), values), most)
    held = [value for value in values if math.isfinite(value)]
    assert len(at) <= max(most * 3 // 2 + 2, 1)
    assert (at[0], at[-1]) == (0, len(values) - 1)
    assert at == sorted(set(at))
    for extreme in (min, max):
        assert not held or extreme(held) in kept
    assert any(map(math.isnan, kept)) == (len(held) < len(values))


def test_a_long_log_is_drawn_with_few_points_and_keeps_its_spike() -> None:
    figure = drawn("long and noisy")
    raw = max(
        figure.axes[0].get_lines(),
        key=lambda line: np.nanmax(np.asarray(line.get_ydata(), dtype=float)),
    )
    assert 19 in raw.get_ydata()  # type: ignore[operator]
    assert len(raw.get_xdata()) <= 1.6 * DRAWN  # type: ignore[arg-type]


def test_the_best_reading_is_the_first_of_equals_and_never_infinite() -> None:
    assert best(curve(range(5), [NAN, 3, 2, 2, -INF])) == (2, 2)
    assert best(curve([1], [NAN])) is None


def test_both_files_are_written_whole_and_alike_each_time(tmp_path: Path) -> None:
    paths = save_pictures(team(), check_up(team()), tmp_path / "new")
    before = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == ["health.png", "health.svg"]
    assert before[0].startswith(b"\x89PNG")
    assert b"</svg>" in before[1]
    assert [
        path.read_bytes() for path in save_pictures(team(), check_up(team()), tmp_path / "new")
    ] == before
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "health.png",
        "health.svg",
    ]


class Writer:
    def __init__(self) -> None:
        self.added: list[tuple[str, np.ndarray[Any, Any], int, str]] = []

    def add_image(
        self, tag: str, image: np.ndarray[Any, Any], step: int, *, dataformats: str
    ) -> None:
        self.added.append((tag, image, step, dataformats))


def test_tensorboard_is_given_the_picture_as_pixels() -> None:
    writer = Writer()
    to_tensorboard(draw(team()), writer, 60)
    ((tag, image, step, layout),) = writer.added
    assert (tag, step, layout) == ("health", 60, "HWC")
    assert image.shape[1:] == (1200, 3)
    assert len(np.unique(image)) > 50


def test_pyplot_is_left_alone() -> None:
    drawing = (
        "from tests.health.test_pictures import *; draw(team()); to_tensorboard(draw(team()), "
        "Writer(), 1); "
    )
    done = subprocess.run(
        [sys.executable, "-c", drawing + "sys.exit('matplotlib.pyplot' in sys.modules)"],
        check=False,
    )
    assert done.returncode == 0


def test_a_missing_matplotlib_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("pictures", "panels"):
        spec = find_spec(f"pytest_overfit.health.{name}")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        for loaded in [loaded for loaded in sys.modules if loaded.startswith("matplotlib.")]:
            monkeypatch.setitem(sys.modules, loaded, None)
        with pytest.raises(
            ImportError,
            match=r"^pictures need matplotlib: pip install 'pytest-overfit\[pictures\]'$",
        ):
            spec.loader.exec_module(module)
