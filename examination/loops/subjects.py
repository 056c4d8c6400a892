"""The subject of a changed training, as its team would describe it in their own conftest.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from torch.utils.data import DataLoader

from examination.loops.planting import Change, Kind, planted
from examination.loops.task import VOCABULARY
from pytest_overfit import Loop, Subject, huggingface, lightning
from pytest_overfit.loop.items import samples_of


def subject(kind: Kind, change: Change, folder: Path) -> Subject:
    return _SUBJECTS[kind](planted(kind, change, folder), folder)


def _generator(module: ModuleType, folder: Path) -> Subject:
    clips = module.Clips()
    return Subject(
        name="generator",
        build=lambda vocab_size, feature_dim, seed: module.Network(),
        samples=samples_of(clips, lambda clip: (clip["features"], clip["target"])),
        vocabulary=VOCABULARY,
        loop=Loop(
            train=module.train,
            loader=DataLoader(
                clips, batch_size=module.BATCH, shuffle=True, collate_fn=module.collate
            ),
        ),
    )


def _lightning(module: ModuleType, folder: Path) -> Subject:
    return lightning.subject_of(
        module.Module,
        module.Data(),
        sample=lambda clip: (clip["features"], clip["target"]),
        vocabulary=VOCABULARY,
        trainer={**module.TRAINER, "default_root_dir": folder},
    )


def _huggingface(module: ModuleType, folder: Path) -> Subject:
    return huggingface.subject_of(
        module.Model,
        module.Clips(),
        module.collate,
        module.arguments(str(folder)),
        trainer=module.OurTrainer,
        sample=lambda clip: (clip["features"], clip["labels"]),
        vocabulary=VOCABULARY,
        forward=lambda model, features, frames: (model(features, frames)["logits"], frames),
        outputs="log_probs",
    )


_SUBJECTS = {"generator": _generator, "lightning": _lightning, "huggingface": _huggingface}
