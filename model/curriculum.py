"""A curriculum: from a recipe that climbed a rung of the ladder up to a thousand sentences, weights
carried from each scale to the next.

rung     5 training sentences, memorised with the optimiser and learning rate that are to be
         scaled up; where only one of the ladder's other rates holds, that one is taken, and where
         none does, nothing is trained
stage    a run of its own in `<samples>-sentences/`, which starts from the best weights of the
         stage before; sentences are nested, and every stage is validated on the same unseen ones
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.atomic_files import write_whole
from model.fitting import BEST, Result, fit, recipe_of
from model.run_record import BadRunFolder, subject_for
from model.settings import Settings
from model.tables import Column, text_table
from pytest_overfit.climb.ladder import Outcome, Rung, criteria_for
from pytest_overfit.plugin.failure import headline
from pytest_overfit.recipe import Recipe

RECORD = "curriculum.json"
RUNG, RUNG_BUDGET, RUNG_WARMUP = 5, 400, 10


class RungBroken(Exception):
    """The rung below the curriculum does not hold; the message is the ladder's headline."""


@dataclass(frozen=True, kw_only=True)
class Climbed:
    """The rung that was climbed. steps: it took. learning_rate: that held.

    asked: the one that was asked for.
    """

    samples: int
    steps: int
    learning_rate: float
    asked: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One scale. folder: of its run."""

    samples: int
    folder: str
    result: Result


def climb_rung(settings: Settings) -> Climbed:
    """Memorise the first training sentences with the settings' optimiser. Raises RungBroken."""
    data = replace(settings, sentences=RUNG, label_noise=0.0).composed()
    subject = subject_for(settings.network, data, settings.keywords)
    outcome: Outcome = Rung(
        subject=subject,
        samples=RUNG,
        recipe=rung_recipe(settings),
        criteria=criteria_for(RUNG),
        seeds=(settings.seed,),
        device="cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu",
    ).climb()
    if outcome.status != "ok":
        raise RungBroken(headline(outcome))
    held = outcome.deciding[0]
    return Climbed(
        samples=RUNG, steps=held.steps, learning_rate=held.recipe.lr, asked=settings.learning_rate
    )


def rung_recipe(settings: Settings) -> Recipe:
    """The recipe to be scaled up, as a rung takes it: the same optimiser, without what keeps a
    network from memorising.
    """
    plain = {**settings.keywords, "dropout": 0.0}
    recipe = replace(
        recipe_of(settings, RUNG),
        schedule="constant",
        warmup=RUNG_WARMUP,
        lr_min=0.0,
        label_smoothing=0.0,
        weight_decay=0.0,
    )
    return replace(
        recipe,
        batch=None,
        accumulation=1,
        norm_momentum=Recipe().norm_momentum,
        network=plain,
        budget=RUNG_BUDGET,
    )


def curriculum(
    settings: Settings, *, command: str = "", on_stage: Callable[[Stage], None] = lambda stage: None
) -> tuple[Climbed, tuple[Stage, ...]]:
    """Climb the rung, then train at each scale; resumed, goes on with the stage that was cut off.

    on_stage: called with each stage as it ends.

    Raises RungBroken, BadRunFolder.
    """
    folder = settings.output_dir
    known = _known(folder, settings)
    rung = Climbed(**known["rung"]) if known else climb_rung(settings)
    _write(folder, rung, ())
    stages: list[Stage] = []
    for samples in settings.curriculum:
        here = folder / f"{samples:05d}-sentences"
        one = replace(
            settings,
            curriculum=(),
            sentences=samples,
            learning_rate=rung.learning_rate,
            resume=True,
        )
        before = folder / stages[-1].folder / f"{BEST[settings.monitor]}.ckpt" if stages else None
        result = fit(one, one.composed(), folder=here, weights=before, command=command)
        stages.append(Stage(samples=samples, folder=here.name, result=result))
        _write(folder, rung, stages)
        on_stage(stages[-1])
    return rung, tuple(stages)


def _known(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """What a curriculum in this folder has found out already."""
    path = folder / RECORD
    if not path.is_file():
        return None
    if not settings.resume:
        raise BadRunFolder(
            f"{folder} holds a curriculum; go on with it by --resume, or give another --output_dir"
        )
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if known["rung"]["asked"] != settings.learning_rate:
        raise BadRunFolder(
            f"{path}: the curriculum has --learning_rate {known['rung']['asked']}, now "
            f"{settings.learning_rate}"
        )
    return known


def _write(folder: Path, rung: Climbed, stages: Sequence[Stage]) -> None:
    record = {"version": 1, "rung": asdict(rung), "stages": [asdict(stage) for stage in stages]}
    write_whole(folder / RECORD, json.dumps(record, indent=1) + "\n")


def stages_in_words(rung: Climbed, stages: Sequence[Stage], monitor: str) -> str:
    """The rung in a sentence, and a table of the stages, each at its best epoch."""
    other = (
        ""
        if rung.learning_rate == rung.asked
        else f"; {rung.asked:g}, which was asked for, does not hold"
    )
    columns = [
        Column("samples", lambda stage: f"{stage.samples}"),
        Column("epochs", lambda stage: f"{stage.result.epochs}"),
        Column("best at", lambda stage: f"{stage.result.best['epoch']:g}"),
        Column("train eval loss", lambda stage: f"{stage.result.best['train_eval_loss']:.3f}"),
        Column("val loss", lambda stage: f"{stage.result.best['val_loss']:.3f}"),
        Column("train WER", lambda stage: f"{stage.result.best['train_wer']:.1%}"),
        Column("val WER", lambda stage: f"{stage.result.best['val_wer']:.1%}"),
        Column("ended by", lambda stage: stage.result.ended),
    ]
    sentence = (
        f"rung {rung.samples}: ok after {rung.steps} steps at learning rate "
        f"{rung.learning_rate:g}{other}\n"
    )
    return sentence + text_table(
        f"stages, each at its best {monitor.replace('_', ' ')}", columns, stages
    )
