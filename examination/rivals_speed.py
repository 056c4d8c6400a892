"""How long a rung takes here, and by what one would write or install instead, in processor time.

`python -m examination.rivals_speed [ROUNDS]`. The others train the same fresh network on the same
batch with Adam at the same rate until the loss in train mode is below the rung's bound, or its
budget ends; they read nothing in eval mode and run no control. A rival that is not installed is
left out and named. Beside each rung stands the step after which its criteria first hold, read after
every step: nothing that judges in eval mode can end before it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from model.subjects import mobilenetv3
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.host import lent
from pytest_overfit.recipe import Recipe, default_recipe
from pytest_overfit.subject import Batch, Subject, collate
from pytest_overfit.training import Training, default_loss
from tests.benchmarks.pairs import processor_seconds

RUNGS = (1, 2, 5, 10)


class Case:
    """A rung as the others are given it. told: what they say of it, once it has run."""

    def __init__(self, subject: Subject, samples: int) -> None:
        self.subject, self.samples = subject, samples
        self.recipe: Recipe = default_recipe(samples)
        self.criteria = criteria_for(samples)
        self.goal = next(one.bound for one in self.criteria if one.name == "loss")
        self.batch: Batch = collate(subject.take(samples))
        self.told = ""

    def network(self) -> nn.Module:
        return self.subject.fresh(feature_dim=self.batch.features.shape[2], seed=0)

    def loss(self, output: tuple[Tensor, Tensor]) -> Tensor:
        log_probs, steps = output
        return default_loss(log_probs, self.batch, steps, self.recipe, self.subject.blank)


def ours(case: Case) -> None:
    outcome = Rung(
        subject=case.subject, samples=case.samples, recipe=case.recipe, criteria=case.criteria
    ).climb()
    case.told = f"{outcome.status} in {outcome.steps} steps"


def first_held(case: Case) -> int | None:
    """The step after which the criteria first hold, in eval mode; None where they do not."""
    training = Training(case.subject, case.subject.take(case.samples), case.recipe, seed=0)
    for _ in training.advance(case.recipe.budget):
        reading = training.read()
        if all(one.judge(reading, training.trace).held for one in case.criteria):
            return training.step
    return None


def by_lightning(case: Case) -> None:
    """A module, a loader of one batch, and `Trainer(overfit_batches=1)`."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = case.network()

        def training_step(self, *_: Any) -> Tensor:
            loss = case.loss(self.network(case.batch.features, case.batch.frames))
            self.trainer.should_stop = loss.item() < case.goal
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=case.recipe.lr)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu",
            overfit_batches=1,
            max_epochs=case.recipe.budget,
            gradient_clip_val=case.recipe.clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader([0]))
    held = trainer.should_stop
    case.told = f"{'ok' if held else 'broken'} in {trainer.global_step} steps"


def by_pytest_torch(case: Case) -> None:
    rival: Any = import_module("pytest_torch")
    try:
        run = rival.assert_overfits_one_batch(
            case.network(),
            (case.batch.features, case.batch.frames),
            case.loss,
            steps=case.recipe.budget,
            target_loss=case.goal,
            lr=case.recipe.lr,
        )
        case.told = f"ok in {len(run.losses) - 1} steps"
    except AssertionError as error:
        case.told = "broken: " + str(error).partition("\n")[0]


RIVALS: dict[str, tuple[str, Callable[[Case], None]]] = {
    "lightning overfit_batches": ("lightning", by_lightning),
    "pytest-torch overfits one batch": ("pytest_torch", by_pytest_torch),
}


def main(rounds: int) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rivals = {name: run for name, (module, run) in RIVALS.items() if find_spec(module)}
    for name in RIVALS.keys() - rivals.keys():
        print(f"{name}: not installed, left out")
    sums = dict.fromkeys(("this", *rivals), 0.0)
    with lent(threads=1):
        for run in (ours, *rivals.values()):
            run(Case(mobilenetv3(), 1))  # imports
        for samples in RUNGS:
            taken: dict[str, list[float]] = {name: [] for name in sums}
            told = {}
            for turn in range(rounds):
                sides = [("this", ours), *rivals.items()]
                for name, run in sides if turn % 2 == 0 else sides[::-1]:
                    case = Case(mobilenetv3(), samples)
                    taken[name].append(processor_seconds(lambda run=run, case=case: run(case)))
                    told[name] = case.told
            for name, seconds in taken.items():
                sums[name] += median(seconds)
                print(f"{samples:3} samples  {name:32} {median(seconds):7.2f} s  {told[name]}")
            first = first_held(Case(mobilenetv3(), samples))
            print(f"{samples:3} samples  criteria first hold after {first} steps")
    for name, total in sums.items():
        print(f"all rungs    {name:32} {total:7.2f} s  this / it {sums['this'] / total:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
