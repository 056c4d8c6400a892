"""A checkpoint beside a log, measured on real samples: what its network puts out in eval mode, and
what probes say of the signal on its way.

A log tells that predictions are empty; the network tells why: a blank level, a uniform output, a
layer that no longer tells clips apart. Weights alone are read: a file that needs Python objects is
refused, since to open one is to run it.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit.climb.ladder import Outcome, Rung
from pytest_overfit.explain.diagnosis import Row, examine_rung, row
from pytest_overfit.explain.evidence import PROBED
from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.record import Record
from pytest_overfit.health.run import BadRun, Run
from pytest_overfit.levels import LevelMatch, ladder_of_levels, match_level
from pytest_overfit.network import Observation, observe, rows_for_people
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import BadSample, Sample, Subject
from pytest_overfit.training import Reading, Training

STATE_KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "module")
"""Where trainers keep a network's state dict: Lightning's first; a file that is nothing but a state
dict has none of them.
"""

GIVEN = ("vocab_size", "feature_dim", "seed")
"""Keywords that every network is built with, so that none of the run's own may set them."""


State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CheckpointReading:
    """What the network of a checkpoint does on real samples.

    samples:  how many were read. epoch: as the checkpoint tells it. reading: in eval mode, see
              `train.Reading`.
    level_match: the level its loss stands on; None where no target fits in its steps.
    expected_blank_share: 1 - L/T over these samples, what
              a healthy, peaky output has.
    table:    the modules on the way, probed in eval mode. findings: of the weights and the signal;
    none where the network is sound.
    """

    checkpoint: Path
    samples: int
    epoch: int | None
    reading: Reading
    level_match: LevelMatch | None
    expected_blank_share: float
    table: tuple[Row, ...] = ()
    findings: tuple[Finding, ...] = ()


def examine_checkpoint(
    run: Run, subject: Subject, *, samples: int = 20, device: str = "cpu", size: str | None = None
) -> CheckpointReading:
    """Load `run.checkpoint` into a fresh network of `subject`, built with what `run.facts.network`
    says, and measure its first `samples`.

    size: one of the subject's sizes, where the run's facts do not say how its network was built.
    Raises BadRun where there is no checkpoint, it cannot be read, or it does not fit; BadSample
    where there is no sample to read.
    """
    path = run.checkpoint
    if path is None:
        raise BadRun(
            f"{run.name}: no checkpoint lies beside its log: give a folder that holds one "
            "(.ckpt, .pt, .pth or .safetensors)"
        )
    clips = subject.take(min(samples, len(subject.offered(samples))))
    if not clips:
        raise BadSample(f"subject {subject.name} has no samples to read a checkpoint on")
    held = read_weights(path)
    _check_sizes(run, subject, clips)
    keywords = {name: value for name, value in run.facts.network.items() if name not in GIVEN}
    recipe = Recipe(norm_momentum=None, network=keywords)
    network = subject.fresh(
        feature_dim=clips[0].features.shape[1], seed=0, size=size, network=keywords
    )
    load_into(network, state_dict(held, path), path, subject.name)
    return _measured(
        replace(subject, build=_handing_out(network)), clips, recipe, device, path, _epoch(held)
    )


def _check_sizes(run: Run, subject: Subject, clips: Sequence[Sample]) -> None:
    here = {"feature_dim": clips[0].features.shape[1], "vocabulary": len(subject.vocabulary)}
    there = {
        "feature_dim": run.facts.network.get("feature_dim"),
        "vocabulary": run.facts.vocabulary,
    }
    for name, size in here.items():
        if there[name] not in (None, size):
            other = f"subject {subject.name} has {size}: give the subject it was trained on"
            raise BadRun(f"{run.name}: it was trained with {name} {there[name]}, {other}")


def _handing_out(network: nn.Module) -> Callable[..., nn.Module]:
    """A `build` that gives a network that exists, so that all that measures fresh networks measures
    this one.
    """
    return lambda **_: network


def _measured(
    subject: Subject,
    clips: Sequence[Sample],
    recipe: Recipe,
    device: str,
    path: Path,
    epoch: int | None,
) -> CheckpointReading:
    training = Training(subject, clips, recipe, seed=0, device=device)
    reading = training.read()
    steps = [step for _, _, given in training.outputs() for step in given.tolist()]
    broken = not_finite(training.network)
    observed = () if broken else _observed(training)
    return CheckpointReading(
        checkpoint=path,
        samples=len(clips),
        epoch=epoch,
        reading=reading,
        level_match=_level_match(reading.loss, subject, clips, steps),
        expected_blank_share=max(
            0.0, 1 - sum(len(clip.target) for clip in clips) / max(sum(steps), 1)
        ),
        table=tuple(row(o) for o in rows_for_people(observed)),
        findings=(broken,) if broken else _signal_findings(subject, len(clips), recipe, device),
    )


def _observed(training: Training) -> Sequence[Observation]:
    return observe(
        training.subject,
        training.network,
        training.samples[:PROBED],
        mode="eval",
        device=training.device,
    )


def _signal_findings(
    subject: Subject, samples: int, recipe: Recipe, device: str
) -> tuple[Finding, ...]:
    rung = Rung(subject=subject, samples=samples, recipe=recipe, criteria=(), device=device)
    return examine_rung(rung, Outcome(subject=subject.name, samples=samples, status="not tried"))


def _level_match(
    loss: float, subject: Subject, clips: Sequence[Sample], steps: Sequence[int]
) -> LevelMatch | None:
    try:
        levels = ladder_of_levels(
            targets=[clip.target.tolist() for clip in clips],
            steps=steps,
            vocabulary=len(subject.vocabulary),
        )
    except ValueError:  # no target fits
        return None
    return match_level(loss, levels)


def not_finite(network: nn.Module) -> Finding | None:
    """The weights and buffers that hold NaN or infinity, named; None where all are finite."""
    bad = [
        name
        for name, value in network.state_dict().items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if not bad:
        return None
    shown = (
        f"{len(bad)} of {counted(len(network.state_dict()), 'tensor')} hold NaN or infinity, first "
        f"{bad[0]}"
    )
    return WEIGHTS_NOT_FINITE.finding(
        headline="the checkpoint's weights are not finite: it was saved after the run had diverged",
        evidence=(shown,),
        module=bad[0].rpartition(".")[0] or None,
        status="confirmed",
        try_="resume from an earlier checkpoint, with a smaller learning rate or clipped gradients",
    )


WEIGHTS_NOT_FINITE = Record(
    name="weights_not_finite",
    stage="run",
    means=(
        "Weights or buffers of the checkpoint are NaN or infinite: it was saved after the run had "
        "diverged."
    ),
    detected="Every tensor of the file is read.",
    mend="Resume from an earlier checkpoint, with a smaller learning rate or clipped gradients.",
    no_remedy="a checkpoint cannot be trained again here; an earlier one can be resumed",
    planted=("checkpoint-not-finite",),
)


# -- reading the file ------------------------------------------------------------------------------


def read_weights(path: Path) -> object:
    """What a checkpoint file holds, without running any of it.

    Raises BadRun where it cannot be opened so.
    """
    if not path.is_file():
        raise BadRun(
            f"checkpoint {path}: "
            f"{'it is a folder, give the file in it' if path.is_dir() else 'there is no such file'}"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise BadRun(
                f"checkpoint {path}: it holds Python objects ({wanted[1]}), and to open them is to "
                "run them: "
                "save the weights alone, torch.save(network.state_dict(), ...)"
            ) from None
        raise BadRun(_unreadable(path)) from None
    except OSError as error:
        raise BadRun(f"checkpoint {path}: cannot be read ({error.strerror or error})") from None
    except Exception:  # the unpickler meets arbitrary bytes and may fail in any way
        raise BadRun(_unreadable(path)) from None


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise BadRun(f"checkpoint {path}: to read it, pip install safetensors") from None
    try:
        return load_file(path)
    except OSError as error:
        raise BadRun(f"checkpoint {path}: cannot be read ({error.strerror or error})") from None
    except Exception:  # its own error class is not public
        raise BadRun(_unreadable(path)) from None


def _unreadable(path: Path) -> str:
    return (
        f"checkpoint {path}: it is truncated, or no checkpoint of torch's "
        f"({counted(path.stat().st_size, 'byte')}): give another one"
    )


def state_dict(held: object, path: Path) -> State:
    """The state dict in what a file holds: under one of STATE_KEYS, or all of it.

    Raises BadRun where there is none.
    """
    if isinstance(held, Mapping):
        for found in (*(held[key] for key in STATE_KEYS if key in held), held):
            if (
                isinstance(found, Mapping)
                and found
                and all(isinstance(value, Tensor) for value in found.values())
            ):
                return found
    keys = ", ".join(map(str, list(held)[:5])) if isinstance(held, Mapping) else type(held).__name__
    raise BadRun(
        f"checkpoint {path}: no state dict in it, but {keys or 'nothing'}; expected one under "
        f"{', '.join(STATE_KEYS[:3])}, or all of it"
    )


def _epoch(held: object) -> int | None:
    epoch: Any = held.get("epoch") if isinstance(held, Mapping) else None
    return epoch if isinstance(epoch, int) else None


# -- fitting it into a network ---------------------------------------------------------------------


def load_into(network: nn.Module, state: State, path: Path, name: str) -> None:
    """Load a state dict, less the prefix that a wrapper put before its keys. Raises BadRun where a
    key or a shape differs.

    Keys outside the prefix belong to other parts of a wrapper, such as a loss or a metric, and are
    left alone.
    """
    own = network.state_dict()
    prefix = common_prefix(own, state)
    state = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unexpected or reshaped:
        reasons = (
            [f"{len(missing)} of {counted(len(own), 'key')} missing (first {missing[0]})"]
            if missing
            else []
        )
        reasons += [f"{len(unexpected)} unexpected (first {unexpected[0]})"] if unexpected else []
        if reshaped:
            there, here = tuple(state[reshaped[0]].shape), tuple(own[reshaped[0]].shape)
            reasons.append(
                f"{len(reshaped)} of another shape (first {reshaped[0]}: {there}, here {here})"
            )
        raise BadRun(
            f"checkpoint {path} does not fit {name}: {', '.join(reasons)}; give the subject, size "
            "and keywords it was trained with"
        )
    network.load_state_dict(state)


def common_prefix(own: State, state: State) -> str:
    """What stands before the most of a network's own keys in a state dict: "", "network.",
    "model.", "module.", "network._orig_mod." ...
    """
    found = {key[:start] for key in state for start in _starts(key) if key[start:] in own}
    return max(
        sorted(found, key=len),
        key=lambda prefix: sum(prefix + mine in state for mine in own),
        default=_shared(state),
    )


def _starts(key: str) -> list[int]:
    """Where the parts of a dotted name begin."""
    return [0, *(place + 1 for place, letter in enumerate(key) if letter == ".")]


def _shared(state: State) -> str:
    """The first part of the keys where it is the same in all, so that keys of a foreign network are
    told without it.
    """
    first = {key.partition(".")[0] for key in state}
    return f"{first.pop()}." if len(first) == 1 and all("." in key for key in state) else ""
