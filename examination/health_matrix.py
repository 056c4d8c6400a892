"""`python -m examination.health_matrix`: train the runs that are missing, judge them all, and
write what came out.

python -m examination.health_matrix --only overfit-24,lr-zero   print what is said of these
runs, and write nothing
python -m examination.health_matrix --judge                     train nothing
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from examination.health_cure import Cured, measured
from examination.health_judged import Judged, judge
from examination.health_page import Compared, Row, page
from examination.health_rivals import RIVALS, rows_of
from examination.health_runs import CURE, CURE_RUNS, CURE_SEEDS, RUNS, HealthRun, cure_run
from examination.health_training import METRICS, train_missing, trained

ROOT, PAGE = Path("logs/health_runs"), Path("docs/health_matrix.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where a run could not be trained or is not judged rightly."""
    options = _options(arguments)
    names = options.only.split(",") if options.only else None
    runs = [run for run in (*RUNS, *CURE_RUNS) if names is None or run.name in names]
    if unknown := sorted(set(names or ()) - {run.name for run in runs}):
        sys.exit(
            f"no run is called {unknown[0]!r}; there are "
            f"{', '.join(run.name for run in (*RUNS, *CURE_RUNS))}"
        )
    for run in runs if options.fresh else ():
        shutil.rmtree(options.root / run.name, ignore_errors=True)
    failed = [] if options.judge else train_missing(runs, options.root)
    rows = [
        row_of(run, options.root)
        for run in runs
        if run in RUNS and trained(options.root / run.name)
    ]
    for row in rows:
        print(told(row.judged))
    if names is None:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page(rows, cured_in(options.root)), encoding="utf-8")
    wrong = [row.judged.run.name for row in rows if not row.judged.right or row.judged.alarmed]
    print(
        f"{len(rows)} runs judged, {len(wrong)} wrongly: {', '.join(wrong) or 'none'}; not "
        f"trained: {', '.join(failed) or 'none'}"
    )
    return 1 if wrong or failed else 0


def row_of(run: HealthRun, root: Path) -> Row:
    """A trained run judged by the health report, and by the rivals after each epoch."""
    folder = root / run.name
    return Row(judged=judge(run, folder), rivals=compared(folder))


def compared(folder: Path) -> dict[str, Compared]:
    """What each installed rival says of a run, at its end and after each of its epochs."""
    metrics = rows_of(folder / METRICS)
    installed = {name: says for name, says in RIVALS.items() if find_spec(name) is not None}
    with tempfile.TemporaryDirectory() as place:
        after = {
            name: [says(metrics[:end], Path(place)) for end in range(1, len(metrics) + 1)]
            for name, says in installed.items()
        }
    return {
        name: Compared(said=said[-1], after=tuple(frozenset(each) for each in said))
        for name, said in after.items()
    }


def cured_in(root: Path) -> list[Cured]:
    """The runs of the cure that are trained."""
    found = []
    for seed in CURE_SEEDS:
        for dropout, decay in CURE:
            run = cure_run(dropout, decay, seed)
            if trained(root / run.name):
                numbers = measured(rows_of(root / run.name / METRICS))
                found.append(
                    Cured(
                        dropout=dropout,
                        weight_decay=decay,
                        seed=seed,
                        measured=numbers,
                        judged=judge(run, root / run.name),
                    )
                )
    return found


def told(judged: Judged) -> str:
    """A run in one line."""
    found = (
        ", ".join(
            f"{name} {began:.0f}" if began is not None else name
            for name, began in judged.said.found.items()
        )
        or "nothing"
    )
    alarms = f"; {len(judged.alarmed)} epochs with an alarm" if judged.alarmed else ""
    return (
        f"{judged.run.name}: {judged.said.verdict}, found {found}{alarms}: "
        f"{judged.wrong or 'right'}"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examination.health_matrix", description=__doc__
    )
    parser.add_argument("--fresh", action="store_true", help="train again what is there")
    parser.add_argument("--only", help="names of runs; the page is then not written")
    parser.add_argument("--judge", action="store_true", help="train nothing")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
