"""Faults of kinds that public reports tell of and that nothing was written for when they were
planted. A third of the kinds, every third by name, is aside: nothing was mended for them but plateau_of_the_wrong_way, later.

- checkpoint_without_gradient: pytorch/pytorch issue 7617, mlfoundations/open_clip issue 573
- clip_of_spent_parameters: pytorch/pytorch issue 148259
- features_viewed: BonnBytes/PyTorch-FWD issue 16
- lengths_before_sorting: pytorch/pytorch issue 3584
- output_viewed: weirme/FCSN issue 32
- plateau_of_the_wrong_way: FunctionLab/selene issue 115
- rate_compounds: wuzhe71/CPD issue 14
- schedule_before_step: zju3dv/NeuralRecon issue 51
- smoothing_outweighs: athena-team/athena issue 322
- softmax_over_time: fxia22/pointnet.pytorch issue 27
- targets_flattened: pytorch/pytorch pull request 38391
- zeroed_each_epoch: pytorch/pytorch issue 47175
"""

from __future__ import annotations

from dataclasses import replace

from examination.loops import generator_changes as plain
from examination.loops import huggingface_changes as hf
from examination.loops import lightning_changes as pl
from examination.loops.planting import Change, Edit, Kind, fault

ASIDE = ("features_viewed", "plateau_of_the_wrong_way", "smoothing_outweighs", "zeroed_each_epoch")
_IMPORT: Edit = (
    "import torch\nfrom torch import Tensor",
    "import torch\nimport torch.utils.checkpoint\nfrom torch import Tensor",
)
_PADDED = '        "features": pad_sequence(features, batch_first=True),\n'
_VIEWED = (
    '        "features": pad_sequence(features, batch_first=True)'
    ".reshape(len(clips), 8, -1).transpose(1, 2),\n"
)
_TARGETS = '        "targets": pad_sequence(targets, batch_first=True),\n'
_BEFORE = '    frames = torch.tensor([len(clip["features"]) for clip in clips])\n'
_FRAMES = '        "frames": frames,\n'
_COMPOUNDING = "torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.5**epoch)"
_PLATEAU = (
    'torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=1)'
)
_SPENT = "torch.nn.utils.clip_grad_norm_(self.held, 1.0)"


def _smoothed(ctc: str) -> str:
    """Label smoothing whose divergence is summed over all steps of a batch."""
    uniform = "torch.full_like(log_probs, 1 / log_probs.shape[-1])"
    return f'0.9 * {ctc} + 0.1 * F.kl_div(log_probs, {uniform}, reduction="sum")'


_GENERATOR = (
    fault(
        "checkpoint_without_gradient",
        "loss",
        (
            plain.FORWARD,
            '    encoded = torch.utils.checkpoint.checkpoint(network.encoder, batch["features"], '
            'use_reentrant=True)\n    log_probs, steps = network.decode(encoded, batch["frames"])\n',
        ),
        _IMPORT,
    ),
    fault(
        "clip_of_spent_parameters",
        "clip",
        (
            plain.OPTIMIZER,
            "    parameters = network.parameters()\n"
            "    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=1e-2)\n",
        ),
        (plain.CLIP, plain.CLIP.replace("network.parameters()", "parameters")),
    ),
    fault("features_viewed", "batches", (_PADDED, _VIEWED)),
    fault(
        "lengths_before_sorting",
        "batches",
        (plain.SORT, _BEFORE + plain.SORT),
        (plain.FRAMES, _FRAMES),
    ),
    fault(
        "output_viewed",
        "loss",
        (
            plain.FORWARD,
            f"{plain.FORWARD}    log_probs = log_probs.transpose(0, 1).reshape(log_probs.shape)\n",
        ),
    ),
    fault(
        "plateau_of_the_wrong_way",
        "scheduler",
        (plain.EXPONENTIAL, _PLATEAU),
        (
            "        scheduler.step()\n        validate(network, batches)\n",
            "        scheduler.step(validate(network, batches))\n",
        ),
    ),
    fault("rate_compounds", "scheduler", (plain.EXPONENTIAL, _COMPOUNDING)),
    fault(
        "schedule_before_step",
        "scheduler",
        (plain.EXPONENTIAL, "torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)"),
        (plain.EPOCH_STEP, "        validate"),
        (plain.STEP, f"            scheduler.step()\n{plain.STEP}"),
    ),
    fault(
        "smoothing_outweighs",
        "loss",
        (
            plain.CTC,
            "    return "
            + _smoothed('F.ctc_loss(log_probs, batch["targets"], steps, batch["target_lengths"])')
            + "\n",
        ),
    ),
    fault(
        "softmax_over_time",
        "loss",
        (plain.FORWARD, f"{plain.FORWARD}    log_probs = log_probs.log_softmax(0)\n"),
    ),
    fault("targets_flattened", "batches", (_TARGETS, _TARGETS.replace("True)", "True).flatten()"))),
    fault(
        "zeroed_each_epoch",
        "accumulation",
        (plain.ZERO, ""),
        (plain.EVERY, f"        optimizer.zero_grad()\n{plain.EVERY}"),
    ),
)
_LIGHTNING = (
    fault(
        "checkpoint_without_gradient",
        "loss",
        (
            pl.FORWARD,
            "        encoded = torch.utils.checkpoint.checkpoint(self.network.encoder, "
            'batch["features"], use_reentrant=True)\n'
            '        log_probs, steps = self.network.decode(encoded, batch["frames"])\n',
        ),
        _IMPORT,
    ),
    fault(
        "clip_of_spent_parameters",
        "clip",
        (
            pl.OPTIMIZER,
            "        self.held = self.parameters()\n"
            "        optimizer = torch.optim.AdamW(self.held, lr=1e-2, weight_decay=1e-2)\n",
        ),
        pl.hook(pl.CLIP_HOOK, _SPENT),
    ),
    fault("features_viewed", "batches", (_PADDED, _VIEWED)),
    fault("lengths_before_sorting", "batches", (pl.SORT, _BEFORE + pl.SORT), (pl.FRAMES, _FRAMES)),
    fault(
        "output_viewed",
        "loss",
        (
            pl.FORWARD,
            f"{pl.FORWARD}        log_probs = log_probs.transpose(0, 1).reshape(log_probs.shape)\n",
        ),
    ),
    fault(
        "plateau_of_the_wrong_way",
        "scheduler",
        (pl.EXPONENTIAL, _PLATEAU),
        (pl.INTERVAL, '"interval": "epoch", "monitor": "train_loss"'),
    ),
    fault("rate_compounds", "scheduler", (pl.EXPONENTIAL, _COMPOUNDING)),
    fault(
        "schedule_before_step",
        "scheduler",
        *pl.by_hand(*pl.STEPPED[:3], "self.lr_schedulers().step()", "optimizer.step()"),
        (pl.EXPONENTIAL, "torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)"),
    ),
    fault("smoothing_outweighs", "loss", (pl.CTC, _smoothed(pl.CTC))),
    fault(
        "softmax_over_time",
        "loss",
        (pl.FORWARD, f"{pl.FORWARD}        log_probs = log_probs.log_softmax(0)\n"),
    ),
    fault("targets_flattened", "batches", (_TARGETS, _TARGETS.replace("True)", "True).flatten()"))),
    fault(
        "zeroed_each_epoch",
        "accumulation",
        pl.hook(
            "optimizer_zero_grad(self, epoch, batch_idx, optimizer)",
            "if batch_idx == 0:",
            "    optimizer.zero_grad()",
        ),
    ),
)
_HUGGINGFACE = (
    fault(
        "checkpoint_without_gradient",
        "loss",
        (
            hf.FORWARD,
            "        encoded = torch.utils.checkpoint.checkpoint(self.network.encoder, features, "
            "use_reentrant=True)\n        log_probs, steps = self.network.decode(encoded, frames)\n",
        ),
        _IMPORT,
        also=("network",),
    ),
    fault(
        "clip_of_spent_parameters",
        "clip",
        hf.step(hf.THEIRS, _SPENT, "return loss"),
        hf.optimizer(hf.ADAMW.format("self.held"), "self.held = self.model.parameters()"),
        (hf.CLIP, "        max_grad_norm=0.0,\n"),
    ),
    fault("features_viewed", "batches", (_PADDED, _VIEWED)),
    fault("lengths_before_sorting", "batches", (hf.SORT, _BEFORE + hf.SORT), (hf.FRAMES, _FRAMES)),
    fault(
        "output_viewed",
        "loss",
        (
            hf.CTC,
            hf.CTC.replace("log_probs,", "log_probs.transpose(0, 1).reshape(log_probs.shape),", 1),
        ),
    ),
    fault(
        "rate_compounds",
        "scheduler",
        hf.scheduler("MultiplicativeLR(optimizer or self.optimizer, lambda step: 0.97**step)"),
    ),
    fault("smoothing_outweighs", "loss", (hf.CTC, _smoothed(hf.CTC)), also=("network",)),
    fault(
        "softmax_over_time",
        "loss",
        (hf.CTC, hf.CTC.replace("log_probs,", "log_probs.log_softmax(0),", 1)),
    ),
    fault(
        "targets_flattened",
        "batches",
        (hf.CTC, "F.ctc_loss(log_probs, labels.clamp(min=0).flatten(), steps, mask.sum(-1))"),
        also=("loss",),
    ),
    fault(
        "zeroed_each_epoch",
        "accumulation",
        (
            hf.MADE,
            f"{hf.MADE}        self.steps = 0\n\n"
            "    def zero_grad(self, set_to_none: bool = True) -> None:\n"
            "        self.steps += 1\n"
            "        if self.steps % 16 == 1:\n"
            "            super().zero_grad(set_to_none)\n",
        ),
    ),
)


REPORTED: dict[Kind, tuple[Change, ...]] = {
    kind: tuple(
        replace(
            change,
            name=f"reported_{change.name}",
            lot="reported, aside" if change.name in ASIDE else "reported kind",
        )
        for change in changes
    )
    for kind, changes in (
        ("generator", _GENERATOR),
        ("lightning", _LIGHTNING),
        ("huggingface", _HUGGINGFACE),
    )
}
