"""Faults of further kinds, written after all findings and examined once before anything was mended
for them. Some are of kinds that public reports tell of.

- a schedule stepped at each part of an accumulated step: huggingface/accelerate issue 963
- gradients zeroed in part before the step: LongCat-Image issue 46
"""

from __future__ import annotations

from dataclasses import replace

from examination.loops import generator_changes as plain
from examination.loops import huggingface_changes as hf
from examination.loops import lightning_changes as pl
from examination.loops.planting import Change, Kind, fault

_NOISE = 'clip["features"] + 10.0 * torch.randn_like(clip["features"])'
_RESET = "if hasattr(module, 'reset_parameters'):"
_ANY_ORDER = 'clip["{0}"][torch.randperm(len(clip["{0}"]))]'

_GENERATOR = (
    fault(
        "schedule_each_part",
        "scheduler",
        plain.accumulated(
            "            (loss / 4).backward()\n            scheduler.step()\n", count=4
        ),
        (plain.EXPONENTIAL, "torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)"),
        (plain.EPOCH_STEP, "        validate"),
    ),
    fault(
        "rate_grows",
        "scheduler",
        *plain.per_batch("ExponentialLR(optimizer, 1.5)"),
        also=("optimiser",),
    ),
    fault(
        "gradient_of_noise",
        "clip",
        (
            plain.BACKWARD,
            f"{plain.BACKWARD}            for p in network.parameters():\n"
            "                p.grad.add_(torch.randn_like(p.grad))\n",
        ),
        also=("accumulation",),
    ),
    fault(
        "layer_zeroed_before_step",
        "accumulation",
        (plain.CLIP, f"{plain.CLIP}            network.head.zero_grad()\n"),
    ),
    fault(
        "targets_twice",
        "batches",
        (plain.TARGETS, '    targets = [clip["target"].repeat(2) for clip in clips]\n'),
    ),
    fault(
        "targets_in_any_order",
        "batches",
        (plain.TARGETS, f"    targets = [{_ANY_ORDER.format('target')} for clip in clips]\n"),
    ),
    fault(
        "features_in_noise",
        "batches",
        (plain.FEATURES, f"    features = [{_NOISE} for clip in clips]\n"),
    ),
    fault(
        "loss_scaled_away",
        "loss",
        (plain.BACKWARD, "            (loss * 1e-9).backward()\n"),
        (plain.CLIP, ""),
        also=("optimiser",),
    ),
    fault(
        "certainty_punished",
        "loss",
        (
            plain.CTC,
            '    ctc = F.ctc_loss(log_probs, batch["targets"], steps, batch["target_lengths"])\n'
            "    return ctc + 50.0 * (log_probs.exp() * log_probs).sum(-1).mean()\n",
        ),
    ),
    fault(
        "optimizer_forgets",
        "optimiser",
        (plain.ADAMW, "torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)"),
        (plain.STEP, f"{plain.STEP}            optimizer.state.clear()\n"),
        also=("state",),
    ),
    fault(
        "begun_anew_each_epoch",
        "state",
        (
            plain.EVERY,
            f"        for module in network.modules():\n            {_RESET}\n"
            f"                module.reset_parameters()\n{plain.EVERY}",
        ),
    ),
    fault(
        "weights_rounded",
        "precision",
        (
            plain.STEP,
            f"{plain.STEP}            for p in network.parameters():\n"
            "                p.data = (4 * p.data).round() / 4\n",
        ),
        also=("state",),
    ),
    fault(
        "head_renewed_each_epoch",
        "state",
        (plain.EVERY, f"        network.head = nn.Linear(48, 8)\n{plain.EVERY}"),
        also=("optimiser",),
    ),
)
_LIGHTNING = (
    fault(
        "rate_grows",
        "scheduler",
        *pl.per_step("ExponentialLR(optimizer, 1.5)"),
        also=("optimiser",),
    ),
    fault(
        "layer_zeroed_before_step",
        "accumulation",
        pl.hook("on_before_optimizer_step(self, optimizer)", "self.network.head.zero_grad()"),
        also=("clip",),
    ),
    fault(
        "targets_twice",
        "batches",
        (pl.TARGETS, '    targets = [clip["target"].repeat(2) for clip in clips]\n'),
    ),
    fault(
        "features_in_noise",
        "batches",
        (pl.FEATURES, f"    features = [{_NOISE} for clip in clips]\n"),
    ),
    fault(
        "begun_anew_each_epoch",
        "state",
        pl.hook(
            "on_train_epoch_start(self)",
            "for module in self.network.modules():",
            f"    {_RESET}",
            "        module.reset_parameters()",
        ),
    ),
    fault(
        "certainty_punished",
        "loss",
        (pl.CTC, f"{pl.CTC} + 50.0 * (log_probs.exp() * log_probs).sum(-1).mean()"),
    ),
)
_HUGGINGFACE = (
    fault(
        "rate_grows",
        "scheduler",
        hf.scheduler("ExponentialLR(optimizer or self.optimizer, 1.5)"),
        also=("optimiser",),
    ),
    fault(
        "layer_zeroed_before_step",
        "accumulation",
        hf.step(hf.THEIRS, "model.network.head.zero_grad()", "return loss"),
        also=("clip",),
    ),
    fault(
        "labels_in_any_order",
        "batches",
        (hf.LABELS, f"    labels = [{_ANY_ORDER.format('labels')} for clip in clips]\n"),
    ),
    fault(
        "features_in_noise",
        "batches",
        (hf.FEATURES, f"    features = [{_NOISE} for clip in clips]\n"),
    ),
    fault(
        "weights_rounded",
        "precision",
        hf.step(
            "for p in model.parameters():",
            "    p.data = (4 * p.data).round() / 4",
            hf.THEIRS,
            "return loss",
        ),
        also=("state",),
    ),
    fault(
        "certainty_punished",
        "loss",
        (hf.CTC, f"{hf.CTC} + 50.0 * (log_probs.exp() * log_probs).sum(-1).mean()"),
        also=("network",),
    ),
)

FRESH: dict[Kind, tuple[Change, ...]] = {
    kind: tuple(
        replace(change, name=f"fresh_{change.name}", lot="fresh kind") for change in changes
    )
    for kind, changes in (
        ("generator", _GENERATOR),
        ("lightning", _LIGHTNING),
        ("huggingface", _HUGGINGFACE),
    )
}
