"""Every number that a finding cites with a line of the log stands in that line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.readers import read_run
from tests.health.made_runs import SICK

CITED = re.compile(
    r"(-?\d[\d.]*(?:e[-+]?\d+)?)( %)?(?: nats)? at (?:epoch|step) [\d.e+]+ \(([^():]+):(\d+)\)"
)
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def not_in_the_log(checkup: Checkup, folder: Path) -> list[str]:
    """What is cited with a line that does not hold it, as it is or as percent, to the digits that
    are printed.
    """
    wrong = []
    for sentence in (
        *checkup.reasons,
        *checkup.notes,
        *(text for finding in checkup.findings for text in (finding.headline, *finding.evidence)),
    ):
        for number, percent, file, line in CITED.findall(sentence):
            there = [
                float(one)
                for one in NUMBERS.findall(
                    (folder / file).read_text(errors="replace").split("\n")[int(line) - 1]
                )
            ]
            digits = len(number.partition(".")[2])
            shown = [value * unit for value in there for unit in ((1, 100) if percent else (1,))]
            shown += [100 - value for value in shown] if percent else []
            if not any(abs(float(number) - value) <= 0.5001 * 10**-digits for value in shown):
                wrong.append(f"{number}{percent} of {file}:{line} in {sentence!r}")
    return wrong


@pytest.mark.parametrize("kind", SICK)
def test_every_reading_that_is_cited_stands_in_its_line(kind: str, tmp_path: Path) -> None:
    curves = {
        name: curve
        for name, curve in SICK[kind][0](np.random.default_rng([3, 5])).curves.items()
        if metric(name)
    }
    places = sorted({at for curve in curves.values() for at in curve.at})
    by_place = {
        name: dict(zip(curve.at, curve.values, strict=True)) for name, curve in curves.items()
    }
    rows = [
        ",".join(
            [
                f"{at:g}",
                *(f"{by_place[name][at]:.8g}" if at in by_place[name] else "" for name in curves),
            ]
        )
        for at in places
    ]
    (tmp_path / "metrics.csv").write_text("\n".join([",".join(["epoch", *curves]), *rows]) + "\n")
    checkup = check_up(read_run(tmp_path))
    assert not_in_the_log(checkup, tmp_path) == []
