"""What `python -m model.train` is asked to do: `Settings`, read from the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.tuned import read_tuned
from model.variants import VARIANTS
from pytest_overfit.recipe import BadRecipe

if TYPE_CHECKING:
    from model.data import Data

NETWORKS = ("mobilenetv3", "i3d_teacher")
PRECISIONS: Mapping[str, str] = {
    "32": "32-true",
    "16-mixed": "16-mixed",
    "bf16-mixed": "bf16-mixed",
}
WIDTHS: Mapping[str, int] = {"mobilenetv3": 128, "i3d_teacher": 64}
"""Default hidden_dim of each network."""
FREE = (
    "output_dir",
    "resume",
    "epochs",
    "patience",
    "devices",
    "num_nodes",
    "accelerator",
    "workers",
    "stop_when_sick",
    "curriculum",
    "seeds",
)
"""Settings that a resumed run may change; the others make it another run."""


class BadSettings(ValueError):
    """Settings that cannot be trained with; the message names the flag and what to do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One field a flag; lengths of schedules are in epochs. hidden_dim: None is the network's
    default.

    features: a corpus of one's own; without it `sentences` composed ones are trained on,
    `val_sentences` others validate.
    """

    network: str
    output_dir: Path
    batch_size: int = 8
    learning_rate: float = 1e-3
    optimizer: str = "adamw"
    dropout: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    accumulation_steps: int = 1
    hidden_dim: int | None = None
    variant: str | None = None
    clip: float = 1.0
    schedule: str = "constant"
    warmup: float = 1.0
    epochs: int = 60
    patience: int = 40
    monitor: str = "val_loss"
    augment: bool = False
    features: Path | None = None
    sentences: int = 200
    val_sentences: int = 60
    languages: tuple[str, ...] = ("ase",)
    label_noise: float = 0.0
    seed: int = 0
    resume: bool = False
    stop_when_sick: bool = False
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "32"
    workers: int = 0
    curriculum: tuple[int, ...] = ()
    regularisation: bool = False
    seeds: tuple[int, ...] = ()
    tuned: Mapping[str, Any] | None = None

    @property
    def width(self) -> int:
        """Of the network's hidden layers."""
        return self.hidden_dim or WIDTHS[self.network]

    @property
    def keywords(self) -> dict[str, Any]:
        """What the network is built with."""
        return {
            "hidden_dim": self.width,
            "dropout": self.dropout,
            **({"variant": self.variant} if self.variant else {}),
        }

    @property
    def processes(self) -> int:
        """Processes that train together."""
        return self.devices * self.num_nodes

    def data(self) -> Data:
        """The corpus to train on. Raises BadFeatures."""
        from model.own_corpus import own_data

        return own_data(self.features) if self.features else self.composed()

    def composed(self) -> Data:
        """Composed sentences. Raises BadFeatures for a language without recordings."""
        from model.sentences import Sentences

        wanted = Sentences(
            train=self.sentences,
            val=self.val_sentences,
            languages=self.languages,
            seed=self.seed,
            label_noise=self.label_noise,
        )
        return wanted.data()

    def fixed(self) -> dict[str, Any]:
        """What makes a run this run and no other, as JSON holds it."""
        values = {name: value for name, value in asdict(self).items() if name not in FREE}
        return {
            name: str(value)
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from the command line. Raises BadSettings; `--help` exits."""
    parser = _Parser(
        prog="python -m model.train",
        description="Train a network for CTC on landmarks, and log what health can be judged by.",
    )
    parser.add_argument("network", help=" or ".join(NETWORKS))
    for group, options in _OPTIONS.items():
        section = parser.add_argument_group(group)
        for name, (kind, metavar, text) in options.items():
            default = _DEFAULTS[name]
            if kind is bool:
                section.add_argument(f"--{name}", action="store_true", help=text)
            else:
                shown = (
                    ""
                    if default in (None, ())
                    else (
                        " (default: "
                        f"{','.join(default) if isinstance(default, tuple) else default})"
                    )
                )
                section.add_argument(
                    f"--{name}", type=kind, default=default, metavar=metavar, help=text + shown
                )
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        help="TOML of a recipe, as a search writes it; flags beside it win",
    )
    tuned = None
    if path := vars(parser.parse_args(arguments)).pop("recipe"):
        try:
            flags, tuned = read_tuned(path)
        except BadRecipe as error:
            raise BadSettings(f"--recipe: {error}") from error
        parser.set_defaults(**flags)
    values = vars(parser.parse_args(arguments))
    del values["recipe"]
    return checked(Settings(**values, tuned=tuned))


def checked(settings: Settings) -> Settings:
    """The settings as they are. Raises BadSettings where two do not go together."""
    if settings.network not in NETWORKS:
        raise BadSettings(
            f"there is no network {settings.network!r}; there are {', '.join(NETWORKS)}"
        )
    if settings.variant and settings.network != "mobilenetv3":
        raise BadSettings(
            f"--variant {settings.variant} is one of mobilenetv3, not of {settings.network}"
        )
    if settings.curriculum and settings.regularisation:
        raise BadSettings("--curriculum and --regularisation are two studies: give one of them")
    if settings.curriculum and settings.features:
        raise BadSettings(
            "--curriculum scales up composed sentences; it does not go with --features"
        )
    if settings.seeds and not settings.regularisation:
        raise BadSettings("--seeds belongs to --regularisation; a single run takes --seed")
    if settings.epochs < settings.warmup:
        raise BadSettings(f"--warmup {settings.warmup:g} is longer than --epochs {settings.epochs}")
    return settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise BadSettings(message)


def _number(
    least: float, most: float = math.inf, *, whole: bool = False, open_end: bool = False
) -> Callable[[str], Any]:
    """A reader of numbers from `least` to `most`; with `open_end` the most itself is too much."""
    kind = "a whole number" if whole else "a number"
    bounds = (
        f"from {least:g}"
        if most == math.inf
        else f"from {least:g} to {'below ' if open_end else ''}{most:g}"
    )

    def read(text: str) -> Any:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or value == math.inf or (open_end and value == most):
            raise argparse.ArgumentTypeError(f"must be {kind} {bounds}, got {text!r}")
        return value

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(words)}, got {text!r}")
        return text

    return read


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"must be words separated by commas, got {text!r}")
    return words


def _numbers(*, ascending: bool) -> Callable[[str], tuple[int, ...]]:
    def read(text: str) -> tuple[int, ...]:
        parts = text.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise argparse.ArgumentTypeError(
                f"must be whole numbers separated by commas, got {text!r}"
            )
        numbers = tuple(int(part) for part in parts)
        if ascending and (numbers[0] < 1 or list(numbers) != sorted(set(numbers))):
            raise argparse.ArgumentTypeError(f"must ascend from 1 or more, got {text!r}")
        return numbers

    return read


_COUNT, _SHARE = _number(1, whole=True), _number(0, 1)
_OPTIONS: Mapping[str, Mapping[str, tuple[Any, str, str]]] = {
    "training": {
        "batch_size": (_COUNT, "N", "clips a backward pass of each process"),
        "learning_rate": (_number(0), "LR", "at its peak"),
        "optimizer": (_one_of("adamw", "adam", "sgd"), "NAME", "adamw, adam or sgd"),
        "dropout": (_number(0, 1, open_end=True), "SHARE", "in the encoders and before the head"),
        "weight_decay": (_number(0), "W", "decoupled with adamw, else added to the gradient"),
        "label_smoothing": (_SHARE, "SHARE", "weight of KL(uniform || output)"),
        "accumulation_steps": (_COUNT, "N", "backward passes a step of the optimiser"),
        "hidden_dim": (
            _number(8, whole=True),
            "N",
            "width of the network (default: 128 for mobilenetv3, 64 for i3d_teacher)",
        ),
        "variant": (_one_of(*VARIANTS), "NAME", f"of mobilenetv3: {', '.join(VARIANTS)}"),
        "clip": (_number(0), "NORM", "largest gradient norm, 0 for none"),
        "schedule": (
            _one_of("constant", "cosine", "restarts"),
            "NAME",
            "constant; cosine to 1e-6; restarts: cosine, T_0 10, T_mult 2, eta_min 1e-6",
        ),
        "warmup": (_number(0), "EPOCHS", "linear"),
        "epochs": (_COUNT, "N", "at most"),
        "patience": (_COUNT, "EPOCHS", "without a better --monitor before training stops"),
        "monitor": (_one_of("val_loss", "val_wer"), "METRIC", "val_loss or val_wer"),
        "augment": (bool, "", "alter the training clips, another way each epoch: tempo, and noise"),
        "seed": (_number(0, 2**31, whole=True), "N", "of weights, order, dropout and sentences"),
    },
    "data": {
        "features": (
            Path,
            "DIR",
            "a corpus of your own with its csv files, in train and dev splits",
        ),
        "sentences": (_COUNT, "N", "composed training sentences, without --features"),
        "val_sentences": (_COUNT, "N", "composed validation sentences"),
        "languages": (_words, "CODES", "sign languages of the composed sentences"),
        "label_noise": (
            _SHARE,
            "SHARE",
            "of composed training tokens replaced, to see what wrong labels do",
        ),
    },
    "run": {
        "output_dir": (Path, "DIR", "logs and checkpoints"),
        "resume": (bool, "", "go on with the run in --output_dir, or begin it"),
        "stop_when_sick": (bool, "", "stop when a health rule says that going on is a waste"),
        "accelerator": (_one_of("auto", "cpu", "gpu"), "NAME", "auto, cpu or gpu"),
        "devices": (_COUNT, "N", "processes a machine"),
        "num_nodes": (_COUNT, "N", "machines"),
        "precision": (
            _one_of(*PRECISIONS),
            "NAME",
            "32, 16-mixed or bf16-mixed; CTC is always in float32",
        ),
        "workers": (_number(0, whole=True), "N", "processes that read clips"),
    },
    "studies": {
        "curriculum": (
            _numbers(ascending=True),
            "N,N,...",
            "climb a rung, then train on so many sentences one after another, weights carried on",
        ),
        "regularisation": (
            bool,
            "",
            "dropout, weight decay and augmentation one at a time against a base run",
        ),
        "seeds": (_numbers(ascending=False), "N,N,...", "of a study"),
    },
}
_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Settings)} | {
    "output_dir": Path("checkpoints/run")
}
