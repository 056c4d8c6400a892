"""What each regulariser does: a base run, and one run for each of dropout 0.1 and 0.2, weight decay
1e-5 and 1e-4, and augmentation.

All else is equal: a seed fixes the sentences, the first weights and the order of the clips, so each
change is compared with the base run of its own seed. Train and validation are both read in eval
mode and without augmentation, at the epoch of the best validation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from model.atomic_files import write_whole
from model.fitting import Result, fit
from model.run_record import BadRunFolder
from model.settings import Settings
from model.tables import Column, markdown_table, text_table

RECORD, PAGE = "regularisation.json", "regularisation.md"
BASE = "base"
CHANGES: Mapping[str, Mapping[str, Any]] = {
    BASE: {},
    "dropout 0.1": {"dropout": 0.1},
    "dropout 0.2": {"dropout": 0.2},
    "weight decay 1e-5": {"weight_decay": 1e-5},
    "weight decay 1e-4": {"weight_decay": 1e-4},
    "augmentation": {"augment": True},
}
LOSSES, ERRORS, GAP = ("train_eval_loss", "val_loss"), ("train_wer", "val_wer"), "gap_at_the_end"
MEASURED = (*LOSSES, *ERRORS, GAP)
TITLE = (
    "each change against the base run, at its best validation epoch; in brackets what it changes"
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One run of the study."""

    change: str
    seed: int
    folder: str
    result: Result

    def measured(self) -> dict[str, float]:
        """At the best epoch; the gap between the two losses at the last one."""
        last = self.result.last
        return {name: self.result.best[name] for name in (*LOSSES, *ERRORS)} | {
            GAP: last["val_loss"] - last["train_eval_loss"]
        }


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A change over all seeds. means: of each metric.

    deltas: what it differs from the base run of the same seed, one number a seed.
    """

    change: str
    means: Mapping[str, float]
    deltas: Mapping[str, tuple[float, ...]]
    best_epoch: float


def regularisation(settings: Settings, *, command: str = "") -> tuple[Effect, ...]:
    """Train base and changes for each seed; resumed, goes on with the run that was cut off.

    Raises BadRunFolder.
    """
    folder = settings.output_dir
    if (folder / RECORD).is_file() and not settings.resume:
        raise BadRunFolder(
            f"{folder} holds a study; go on with it by --resume, or give another --output_dir"
        )
    trained: list[Trained] = []
    for seed in settings.seeds or (settings.seed,):
        seeded = replace(settings, seed=seed, seeds=(), regularisation=False, resume=True)
        data = seeded.data()
        for change, fields in changes(seeded).items():
            here = f"{change.replace(' ', '-')}-seed-{seed}"
            result = fit(replace(seeded, **fields), data, folder=folder / here, command=command)
            trained.append(Trained(change=change, seed=seed, folder=here, result=result))
            _write(folder, settings, trained)
    return effects(trained)


def changes(settings: Settings) -> dict[str, Mapping[str, Any]]:
    """The changes that change something about these settings."""
    return {
        name: fields
        for name, fields in CHANGES.items()
        if name == BASE or any(getattr(settings, key) != value for key, value in fields.items())
    }


def effects(trained: Sequence[Trained]) -> tuple[Effect, ...]:
    """Each change against the base run of its seed, in order."""
    base = {run.seed: run.measured() for run in trained if run.change == BASE}
    found = []
    for change in dict.fromkeys(run.change for run in trained):
        runs = [run for run in trained if run.change == change]
        found.append(
            Effect(
                change=change,
                means={name: fmean(run.measured()[name] for run in runs) for name in MEASURED},
                deltas={
                    name: tuple(run.measured()[name] - base[run.seed][name] for run in runs)
                    for name in MEASURED
                },
                best_epoch=fmean(run.result.best["epoch"] for run in runs),
            )
        )
    return tuple(found)


def effects_in_words(found: Sequence[Effect]) -> str:
    """The table for the terminal."""
    return text_table(TITLE, _columns(), found) + f"\n{_caution(len(found[0].deltas[GAP]))}"


def _caution(seeds: int) -> str:
    """What the table rests on."""
    if seeds == 1:
        return (
            "One seed: by how much seeds differ is not known, and a change of less says nothing; "
            "--seeds 0,1,2 tells."
        )
    return (
        f"{seeds} seeds, in brackets the least .. the greatest: a change whose sign varies says "
        "nothing."
    )


def _columns() -> list[Column]:
    def loss(name: str) -> Column:
        return Column(
            name.replace("_", " "), lambda effect: _cell(effect, name, "{:.3f}", "{:+.3f}")
        )

    def errors(name: str) -> Column:
        return Column(
            name.replace("_wer", " WER"), lambda effect: _cell(effect, name, "{:.1%}", "{:+.1%}")
        )

    epoch = Column("at epoch", lambda effect: f"{effect.best_epoch:.3g}")
    return [
        Column("change", lambda effect: effect.change),
        *map(loss, LOSSES),
        *map(errors, ERRORS),
        loss(GAP),
        epoch,
    ]


def _cell(effect: Effect, name: str, shown: str, signed: str) -> str:
    """Mean, and the difference from base: one, or least and greatest over the seeds."""
    mean = shown.format(effect.means[name])
    if effect.change == BASE:
        return mean
    ends = dict.fromkeys(
        signed.format(end) for end in (min(effect.deltas[name]), max(effect.deltas[name]))
    )
    return f"{mean} ({' .. '.join(ends)})"


def _write(folder: Path, settings: Settings, trained: Sequence[Trained]) -> None:
    found = effects(trained)
    values = {
        "version": 1,
        "runs": [asdict(run) for run in trained],
        "effects": [asdict(effect) for effect in found],
    }
    write_whole(folder / RECORD, json.dumps(values, indent=1) + "\n")
    caution = _caution(len({run.seed for run in trained}))
    write_whole(
        folder / PAGE,
        f"# {settings.network}: {TITLE}\n\n{markdown_table(_columns(), found)}\n{caution}\n",
    )
