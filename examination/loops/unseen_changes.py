"""Faults of kinds that no finding was written for: planted when the findings were done, and
examined once.
"""

from __future__ import annotations

from dataclasses import replace

from examination.loops import generator_changes as plain
from examination.loops import huggingface_changes as hf
from examination.loops import lightning_changes as pl
from examination.loops.planting import Change, Kind, fault

_TINY_HEAD = (
    "[{{'params': [p for n, p in {0}.named_parameters() if 'head' not in n]}}, "
    "{{'params': {0}.{1}head.parameters(), 'lr': 1e-7}}], lr=1e-2"
)

_GENERATOR = (
    fault(
        "loss_clamped",
        "loss",
        (plain.CTC, plain.CTC.replace('lengths"])', 'lengths"]).clamp(max=1.0)')),
    ),
    fault(
        "loss_of_one_clip",
        "loss",
        (
            plain.CTC,
            '    one = batch["target_lengths"][:1]\n    return F.ctc_loss(log_probs[:, :1], batch["targets"][:1], steps[:1], one)\n',
        ),
    ),
    fault(
        "targets_reversed",
        "batches",
        (plain.TARGETS, '    targets = [clip["target"].flip(0) for clip in clips]\n'),
    ),
    fault(
        "time_reversed",
        "batches",
        (plain.FEATURES, '    features = [clip["features"].flip(0) for clip in clips]\n'),
    ),
    fault(
        "head_hardly_trained",
        "optimiser",
        (plain.ADAMW, f"torch.optim.AdamW({_TINY_HEAD.format('network', '')})"),
    ),
    fault(
        "momentum_too_long",
        "optimiser",
        (
            plain.ADAMW,
            "torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9999, dampening=0.9999)",
        ),
    ),
    fault(
        "warmup_begun_each_epoch",
        "scheduler",
        (
            plain.EVERY,
            (
                "        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: "
                f"min(1.0, (step + 1) / 2000))\n{plain.EVERY}"
            ),
        ),
        (plain.EPOCH_STEP, "        validate"),
        (plain.STEP, f"{plain.STEP}            scheduler.step()\n"),
    ),
    fault(
        "average_written_back",
        "state",
        (
            plain.OPTIMIZER,
            (
                f"{plain.OPTIMIZER}    average = "
                f"{{name: value.clone() for name, value in network.state_dict().items()}}\n"
            ),
        ),
        (
            plain.STEP,
            f"{plain.STEP}            for name, value in network.state_dict().items():\n"
            "                average[name].lerp_(value, 0.001)\n                "
            "value.copy_(average[name])\n",
        ),
        also=("optimiser",),
    ),
    fault(
        "gradients_left_off",
        "mode",
        (
            plain.NO_GRAD,
            (
                "    torch.set_grad_enabled(False)\n    losses = [loss_of(network, batch).item() "
                "for batch in batches]\n"
            ),
        ),
    ),
    fault(
        "dropout_of_nearly_all",
        "mode",
        (plain.OPTIMIZER, f"    network.encoder[2].p = 0.98\n{plain.OPTIMIZER}"),
        also=("state",),
    ),
)
_LIGHTNING = (
    fault("loss_clamped", "loss", (pl.CTC, f"{pl.CTC}.clamp(max=1.0)")),
    fault(
        "targets_reversed",
        "batches",
        (pl.TARGETS, '    targets = [clip["target"].flip(0) for clip in clips]\n'),
    ),
    fault(
        "head_hardly_trained",
        "optimiser",
        (pl.ADAMW, f"torch.optim.AdamW({_TINY_HEAD.format('self', 'network.')})"),
    ),
    fault(
        "gradients_shrunk",
        "clip",
        (pl.ADAMW, pl.SGD),
        pl.hook("on_after_backward(self)", "for p in self.parameters():", "    p.grad.mul_(1e-6)"),
        also=("accumulation",),
    ),
    fault(
        "epochs_cut_short",
        "batches",
        pl.hook(
            "on_train_batch_start(self, batch, batch_idx)", "return -1 if batch_idx == 0 else None"
        ),
        also=("accumulation", "state"),
    ),
    fault(
        "plateau_without_patience",
        "scheduler",
        (
            pl.EXPONENTIAL,
            (
                "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, "
                "threshold=0.5)"
            ),
        ),
        (pl.INTERVAL, '"interval": "step", "monitor": "train_loss"'),
    ),
    fault(
        "average_written_back",
        "state",
        pl.hook(
            "on_train_batch_end(self, outputs, batch, batch_idx)",
            "for name, value in self.network.state_dict().items():",
            "    self.average[name].lerp_(value, 0.001)",
            "    value.copy_(self.average[name])",
        ),
        (
            pl.MADE,
            (
                f"{pl.MADE}        self.average = "
                f"{{name: value.clone() for name, value in self.network.state_dict().items()}}\n"
            ),
        ),
        also=("optimiser",),
    ),
    fault(
        "dropout_of_nearly_all",
        "mode",
        pl.hook("on_train_start(self)", "self.network.encoder[2].p = 0.98"),
        also=("state",),
    ),
)
_HUGGINGFACE = (
    fault("loss_clamped", "loss", (hf.CTC, f"{hf.CTC}.clamp(max=1.0)")),
    fault(
        "labels_reversed",
        "batches",
        (hf.LABELS, '    labels = [clip["labels"].flip(0) for clip in clips]\n'),
    ),
    fault(
        "head_hardly_trained",
        "optimiser",
        hf.optimizer(f"torch.optim.AdamW({_TINY_HEAD.format('self.model', 'network.')})"),
    ),
    fault(
        "loss_of_one_clip",
        "loss",
        (hf.CTC, "F.ctc_loss(log_probs[:, :1], labels[:1][mask[:1]], steps[:1], mask[:1].sum(-1))"),
    ),
    fault(
        "gradients_shrunk",
        "clip",
        hf.SGD,
        hf.step(hf.THEIRS, "for p in model.parameters():", "    p.grad.mul_(1e-6)", "return loss"),
        also=("accumulation",),
    ),
    fault(
        "polynomial_to_the_hundredth",
        "scheduler",
        (
            hf.SCHEDULE,
            '        lr_scheduler_type="polynomial",\n        lr_scheduler_kwargs={"power": 100.0, "lr_end": 0.0},\n',
        ),
    ),
    fault(
        "average_written_back",
        "state",
        hf.step(
            (
                "self.average = getattr(self, 'average', None) or "
                "{name: value.clone() for name, value in model.state_dict().items()}"
            ),
            "for name, value in model.state_dict().items():",
            "    self.average[name].lerp_(value, 0.001)",
            "    value.copy_(self.average[name])",
            hf.THEIRS,
            "return loss",
        ),
        also=("optimiser",),
    ),
    fault(
        "dropout_of_nearly_all",
        "mode",
        (
            hf.FORWARD,
            f"        self.network.encoder[2].p = 0.98 if self.training else 0.0\n{hf.FORWARD}",
        ),
        also=("state", "loss", "network"),
    ),
)

UNSEEN: dict[Kind, tuple[Change, ...]] = {
    kind: tuple(
        replace(change, name=f"unseen_{change.name}", lot="unseen kind") for change in changes
    )
    for kind, changes in (
        ("generator", _GENERATOR),
        ("lightning", _LIGHTNING),
        ("huggingface", _HUGGINGFACE),
    )
}
