"""The loop of `python -m model.train` as a subject: the same module, recipe, feed and Trainer
settings, climbed and examined like anybody's.

pytest -m "overfit or contracts" --overfit-subject model.own_loop:mobilenetv3
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from model.data import Data
from model.feed import Feed
from model.fitting import recipe_of
from model.lightning_ctc import CTC
from model.run_record import subject_for
from model.settings import PRECISIONS, Settings, checked
from pytest_overfit import Loop
from pytest_overfit.loop.lightning import steps_of
from pytest_overfit.subject import Sample, Subject, collate


class Numbered(Dataset[Sample]):
    """The clips of the feed's own dataset in their first epoch, by number alone."""

    def __init__(self, feed: Feed) -> None:
        self.clips, self.count = feed.train_dataloader().dataset, len(feed.data.train)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        clip: Sample = self.clips[(0, index)]
        return clip


def trained_for_real(settings: Settings, data: Data) -> Subject:
    """A subject that is trained as these settings train it."""
    subject = subject_for(settings.network, data, settings.keywords)
    feed = Feed(data, batch_size=settings.batch_size, seed=settings.seed, augment=settings.augment)
    clips = Numbered(feed)
    recipe = recipe_of(settings, len(data.train))

    def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        return CTC(
            subject,
            subject.fresh(feature_dim=feature_dim, seed=seed),
            recipe,
            feed,
            seed=settings.seed,
        )

    def forward(module: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        given: tuple[Tensor, Tensor] = module.get_submodule("network")(features, frames)
        return given

    trainer = {
        "max_epochs": settings.epochs,
        "precision": PRECISIONS[settings.precision],
        "accumulate_grad_batches": settings.accumulation_steps,
        "use_distributed_sampler": False,
    }
    loader = DataLoader(clips, batch_size=settings.batch_size, shuffle=True, collate_fn=collate)
    samples = [clips[index] for index in range(len(clips))]
    loop = Loop(train=steps_of(trainer, feed), loader=loader)
    return replace(
        subject,
        name=f"{settings.network}_trained_for_real",
        build=build,
        forward=forward,
        samples=samples,
        sizes={},
        loop=loop,
    )


def mobilenetv3() -> Subject:
    """Small, on the sentences that the repository makes."""
    settings = checked(
        Settings(
            network="mobilenetv3",
            hidden_dim=64,
            sentences=16,
            val_sentences=4,
            batch_size=4,
            epochs=100,
            output_dir=Path("checkpoints"),
        )
    )
    return trained_for_real(settings, settings.data())
