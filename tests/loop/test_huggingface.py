"""The Trainer of transformers is driven step by step, with the arguments, the collator and the
subclass of the user.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from pytest_overfit.huggingface import subject_of
from pytest_overfit.loop.huggingface import steps_of
from pytest_overfit.subject import BadSubject

VOCABULARY = ("<pad>", "A", "B")


class Clips(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        return {"input_values": torch.randn(6, 3, generator=draw), "labels": torch.tensor([1, 2])}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.batches: list[int] = []

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        self.batches.append(len(input_values))
        logits = self.head(input_values)
        return {"loss": -logits.log_softmax(-1)[..., 0].mean(), "logits": logits}


def collate(clips: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([clip[name] for clip in clips]) for name in ("input_values", "labels")
    }


def arguments(folder: Path, **changed: Any) -> TrainingArguments:
    given = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "learning_rate": 0.1,
        "optim": "sgd",
        "use_cpu": True,
        **changed,
    }
    return TrainingArguments(str(folder), **given)


def loader() -> DataLoader[Any]:
    return DataLoader(Clips(), batch_size=2, collate_fn=collate)


def test_each_optimiser_step_is_given_once_with_the_mean_of_its_parts(tmp_path: Path) -> None:
    model = Model()
    with torch.no_grad():
        parts = [float(model(**batch)["loss"]) for batch in loader()]
    model.batches.clear()
    losses = steps_of(arguments(tmp_path, gradient_accumulation_steps=4))(model, loader())
    assert next(losses) == pytest.approx(sum(parts) / 4)
    assert model.batches == [2, 2, 2, 2]
    assert list(losses) == []


def test_training_ends_where_it_is_left_and_leaves_no_file(tmp_path: Path) -> None:
    model = Model()
    losses = steps_of(
        arguments(tmp_path / "out", save_strategy="steps", save_steps=1, report_to=[])
    )(model, loader())
    assert len(list(islice(losses, 2))) == 2
    losses.close()
    assert model.batches == [2, 2]
    assert not (tmp_path / "out").exists()


def test_what_a_subclass_overrides_is_run(tmp_path: Path) -> None:
    class Doubled(Trainer):
        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            return 2 * super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    first, second = (
        next(steps_of(arguments(tmp_path), kind)(fresh(), loader())) for kind in (None, Doubled)
    )
    assert second == pytest.approx(2 * first)


def fresh() -> Model:
    torch.manual_seed(0)
    return Model()


def test_a_subject_has_the_batches_of_the_users_trainer(tmp_path: Path) -> None:
    subject = subject_of(Model, Clips(), collate, arguments(tmp_path), vocabulary=VOCABULARY)
    assert subject.name == "Model"
    assert torch.equal(subject.take(2)[1].features, Clips()[1]["input_values"])
    assert subject.loop is not None
    assert subject.loop.loader.batch_size == 2
    batch = next(iter(subject.loop.loader))
    assert set(batch) == {"input_values", "labels"}


def test_items_of_another_form_are_refused_in_one_line(tmp_path: Path) -> None:
    class Others(Clips):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"mel": torch.zeros(6, 3), "labels": torch.tensor([1])}

    subject = subject_of(Model, Others(), collate, arguments(tmp_path), vocabulary=VOCABULARY)
    with pytest.raises(
        BadSubject,
        match=r"^huggingface: items have mel, labels: give sample=lambda item: \(features, "
        r"target\)$",
    ):
        subject.take(1)


def test_a_missing_library_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = arguments(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        BadSubject,
        match=r"^transformers is not installed, which trains this subject: pip install "
        "transformers accelerate$",
    ):
        subject_of(Model, Clips(), collate, given, vocabulary=VOCABULARY)
