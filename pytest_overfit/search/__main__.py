"""`python -m pytest_overfit.search package.module:attribute`: search recipes for a subject.

    python -m pytest_overfit.search model.subjects:mobilenetv3 --trials 200 --rungs 10
    python -m pytest_overfit.search model.subjects:mobilenetv3 --grid notes --rungs 10

Stopped or killed, the same command goes on; given twice at once, both work on one search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_overfit.search.errors import require_optuna

if TYPE_CHECKING:
    from pytest_overfit.search.running import Search, Trial

NOTHING_HOLDS, BAD_INPUT, STOPPED = 1, 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Search as the command line says.

    Returns 0, 1 where nothing holds, 4 after one line about bad input, 130 when stopped.
    """
    try:
        require_optuna()
        return _search(_parse(arguments))
    except ValueError as error:  # every error about input is one
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; ended trials are kept, the same command goes on", file=sys.stderr)
        return STOPPED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_overfit.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("subject", help="package.module:attribute, as --overfit-subject takes it")
    add("--trials", metavar="N", default="100", help="recipes to try (default 100)")
    add(
        "--grid",
        metavar="NAME|FILE",
        help="every combination instead: notes, or a TOML file of lists",
    )
    add("--rungs", metavar="N,N", default="10", help="what each trial climbs (default 10)")
    add("--recipe", metavar="NAME|FILE", default="default", help="the recipe that is changed")
    add(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="set a field and do not search it",
    )
    add("--bound", metavar="NAME=BOUND", action="append", default=[], help="tighten a criterion")
    add("--size", help="of the subject's network")
    add("--seed", type=int, default=0, help="of networks, order and proposals (default 0)")
    add("--device", default="auto", help="auto, cpu or cuda:N (default auto)")
    add(
        "--storage",
        metavar="FILE|URL",
        help="journal or database to share with other processes and machines",
    )
    add(
        "--output",
        metavar="DIR",
        type=Path,
        help="results (default logs/overfitting_search/SUBJECT)",
    )
    return parser.parse_args(arguments)


def _search(given: argparse.Namespace) -> int:
    from pytest_overfit.host import lent
    from pytest_overfit.plugin.settings import (
        Settings,
        choose_device,
        import_subject,
        parse_bounds,
        parse_rungs,
    )
    from pytest_overfit.recipe import parse_assignments
    from pytest_overfit.search.asking import folder_of, search_of
    from pytest_overfit.search.result import as_text, write
    from pytest_overfit.search.running import run
    from pytest_overfit.search.storage import shown

    subject = import_subject(given.subject)
    settings = Settings(
        rungs=parse_rungs(given.rungs),
        recipe_source=given.recipe,
        changes=parse_assignments(given.set),
        bounds=parse_bounds(given.bound),
        seeds=(given.seed,),
        device=choose_device(given.device),
        size=given.size,
    ).check()
    folder = given.output or folder_of(subject.name, Path())
    search = search_of(
        given.grid or given.trials, subject, settings, folder=folder, storage=given.storage
    )
    before: list[int] = []

    def on_begin(earlier: int) -> None:
        before.append(earlier)
        rest = f", {earlier} of them from an earlier run" if earlier else ""
        where = shown(search.storage)
        print(f"{search.name}: {search.trials} trials{rest}, kept in {where}", file=sys.stderr)

    def on_trial(trial: Trial, ended: int) -> None:
        print(trial_line(trial, ended, search), file=sys.stderr, flush=True)

    def on_wait(under_way: int) -> None:
        print(f"waiting for {under_way} trials of other processes", file=sys.stderr, flush=True)

    with lent():
        trials = run(search, on_begin=on_begin, on_trial=on_trial, on_wait=on_wait)
    paths = write(search, trials, folder, earlier=before[0])
    print(as_text(search, trials, earlier=before[0]))
    print(f"written: {', '.join(str(path) for path in paths)}")
    return 0 if trials[0].result.held else NOTHING_HOLDS


def trial_line(trial: Trial, ended: int, search: Search) -> str:
    """ "[17 of 200] trial 16 held, score 0.031, 25 steps, 3.1 s: optimizer adam, lr 0.005"."""
    from pytest_overfit.search.result import chosen

    one = trial.result
    what = chosen(trial, search)
    return (
        f"[{ended} of {search.trials}] trial {trial.number} {one.ended}, score {one.score:.3f}, "
        f"{one.steps} steps, {one.seconds:.1f} s: {what}"
    )


if __name__ == "__main__":
    sys.exit(main())
