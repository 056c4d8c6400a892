"""`python -m model.train mobilenetv3|i3d_teacher`: train a network for real, watched.

    python -m model.train mobilenetv3 --hidden_dim 32 --augment --output_dir checkpoints/first
    python -m model.train mobilenetv3 --features DIR --output_dir checkpoints/mine
    python -m model.train mobilenetv3 --curriculum 50,100,200 --output_dir checkpoints/curriculum

Killed at any moment, the same command with --resume goes on to the same curve.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from model.settings import BadSettings, Settings, parse

BROKEN, BAD_INPUT, STOPPED = 1, 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says.

    Returns 0, 1 where the rung of a curriculum breaks, 4 after one line about bad input, 130 when
    stopped.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = "python -m model.train " + shlex.join(word for word in given if word != "--resume")
    try:
        return _run(parse(given), command)
    except (BadSettings, OSError) as error:
        return _refused(error)
    except KeyboardInterrupt:
        print("stopped; finished epochs are kept, --resume goes on", file=sys.stderr)
        return STOPPED


def _run(settings: Settings, command: str) -> int:
    from model.run_record import BadRunFolder
    from pytest_overfit.recipe import BadRecipe
    from pytest_overfit.subject import BadSample

    try:
        if settings.curriculum:
            return _curriculum(settings, command)
        if settings.regularisation:
            return _regularisation(settings, command)
        return _one(settings, command)
    except (BadRunFolder, BadSample, BadRecipe) as error:
        return _refused(error)


def _one(settings: Settings, command: str) -> int:
    from model.fitting import fit

    data = settings.data()
    for remark in data.remarks:
        _say(remark)
    result = fit(settings, data, folder=settings.output_dir, command=command)
    best = result.best
    _say(
        f"ended after {result.epochs} epochs ({result.ended}); best {settings.monitor} at epoch "
        f"{best['epoch']:g}: "
        f"loss train {best['train_loss']:.3f}, val {best['val_loss']:.3f} nats/token; WER train "
        f"{best['train_wer']:.1%}, val {best['val_wer']:.1%}"
    )
    return 0


def _curriculum(settings: Settings, command: str) -> int:
    from model.curriculum import RungBroken, curriculum, stages_in_words

    try:
        rung, stages = curriculum(settings, command=command)
    except RungBroken as error:
        print(f"nothing was trained: {error}", file=sys.stderr)
        return BROKEN
    _say(stages_in_words(rung, stages, settings.monitor))
    return 0


def _regularisation(settings: Settings, command: str) -> int:
    from model.regularisation import effects_in_words, regularisation

    _say(effects_in_words(regularisation(settings, command=command)))
    return 0


def _say(text: str) -> None:
    """Print, from the first process only."""
    from lightning.pytorch.utilities import rank_zero_only

    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        print(text)


def _refused(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
