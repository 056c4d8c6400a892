"""A CTC network in Lightning: the loss of a batch, and once an epoch one row of metrics under the
names that health rules read.

train_loss                      nats per target token, mean over the epoch's batches in train mode,
dropout and augmentation included train_eval_loss, train_wer, train_emission_ratio,
train_blank_share, train_entropy_ratio
                                the first training clips, as many as there are validation clips, in
                                eval mode and without augmentation
val_loss, val_wer, ...          every validation clip, in eval mode
lr, grad_norm                   of the epoch's last step; mean norm over the epoch's steps, before
                                clipping
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from model.data import seed_of
from model.feed import VAL, Feed
from model.tally import Tally
from pytest_overfit import ctc
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Batch, Subject
from pytest_overfit.training import default_loss, make_optimizer, select, smoothing

SHOWN = 4
"""Clips of each split whose predictions are kept."""
Shown = tuple[str, list[int], list[int]]
"""Split, target, prediction."""


class CTC(L.LightningModule):
    """A subject's network under a recipe. frozen: its learning rate is zero.

    Attributes: network; shown: this epoch's predictions of a few clips.
    """

    def __init__(
        self,
        subject: Subject,
        network: nn.Module,
        recipe: Recipe,
        feed: Feed,
        *,
        seed: int,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.subject, self.network, self.recipe, self.feed, self.seed, self.frozen = (
            subject,
            network,
            recipe,
            feed,
            seed,
            frozen,
        )
        self.shown: list[Shown] = []
        self._tallies = [Tally.empty(), Tally.empty()]
        self._trained = torch.zeros(4, dtype=torch.float64)
        self._lr = math.nan
        float_head(network)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.network, self.subject, self.recipe)
        if self.trainer.precision == "16-mixed":
            optimizer = unfused(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": LambdaLR(
                    optimizer, (lambda step: 0.0) if self.frozen else self.recipe.lr_factor
                ),
                "interval": "step",
            },
        }

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(seed_of(self.seed, self.current_epoch, self.global_rank))
        self._trained.zero_()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        log_probs, steps = self.subject.log_probs(self.network, batch.features, batch.frames)
        loss = default_loss(log_probs, batch, steps, self.recipe, self.subject.blank)
        self._trained[:2] += torch.tensor(
            [loss.item() * len(batch), len(batch)], dtype=torch.float64
        )
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=len(batch))
        weight = self.recipe.label_smoothing
        return (
            (1 - weight) * loss + weight * smoothing(log_probs.float(), batch, steps, self.recipe)
            if weight
            else loss
        )

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip or math.inf)
        skipped = self.trainer.precision == "16-mixed" and not torch.isfinite(
            norm
        )  # by the scaler, which then scales less
        if not skipped:
            self._trained[2:] += torch.tensor([float(norm), 1.0], dtype=torch.float64)
        self._lr = optimizer.param_groups[0]["lr"]

    def on_validation_epoch_start(self) -> None:
        self._tallies, self.shown = [Tally.empty(), Tally.empty()], []

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        log_probs, steps = self.subject.log_probs(self.network, batch.features, batch.frames)
        real = self.feed.real(dataloader_idx, batch_idx, len(batch))
        if not real:
            return
        log_probs, steps, batch = (
            log_probs[:, :real].float(),
            steps[:real],
            select(batch, torch.arange(real)),
        )
        hypotheses = ctc.greedy_decode(log_probs, steps, blank=self.subject.blank)
        self._tallies[dataloader_idx] += Tally.of(
            log_probs, steps, batch, hypotheses, blank=self.subject.blank
        )
        split = "val" if dataloader_idx == VAL else "train"
        room = SHOWN - sum(known == split for known, _, _ in self.shown)
        self.shown += [
            (split, *pair)
            for pair in list(zip(batch.target_lists(), hypotheses, strict=True))[:room]
        ]

    def on_validation_epoch_end(self) -> None:
        val, train = (Tally(sums=self._summed(tally.sums)).metrics() for tally in self._tallies)
        loss, clips, norms, steps = self._summed(self._trained).tolist()
        row = {
            **{f"train_{name}": value for name, value in train.items()},
            **{f"val_{name}": value for name, value in val.items()},
            "train_loss": loss / clips if clips else math.nan,
            "train_eval_loss": train["loss"],
            "lr": self._lr,
            "grad_norm": norms / steps if steps else math.nan,
        }
        self.log_dict(
            row, sync_dist=True
        )  # every process has the same sums; Lightning wants to be told

    def _summed(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return sums
        return torch.as_tensor(
            self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
        ).cpu()


def float_head(network: nn.Module) -> None:
    """Logits leave the head in float32 under any precision: log-probabilities of half precision are
    no basis for CTC's sums.
    """
    head = network.get_submodule("output_proj")
    head.register_forward_hook(lambda module, given, logits: logits.float())


def unfused(optimizer: Optimizer) -> Optimizer:
    """The same optimiser in its plain form: under float16 Lightning unscales gradients before they
    are clipped only for that.
    """
    keywords = {
        name: value
        for name, value in optimizer.defaults.items()
        if name in ("lr", "betas", "weight_decay", "momentum")
    }
    return type(optimizer)(
        [{"params": group["params"]} for group in optimizer.param_groups], **keywords
    )
