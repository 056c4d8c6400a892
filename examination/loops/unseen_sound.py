"""What people do to a loop, soundly: changes of kinds that no finding was written to leave alone
when they were planted.
"""

from __future__ import annotations

from dataclasses import replace

from examination.loops import generator_changes as plain
from examination.loops import huggingface_changes as hf
from examination.loops import lightning_changes as pl
from examination.loops.planting import Change, Edit, Kind, sound

_MEAN = '\n    return (ctc / batch["target_lengths"]).mean()\n'
_ROWS = plain.CTC.replace("    return", "    ctc =").replace(
    'lengths"])', 'lengths"], reduction="none")'
)
_LOSS_OF_BATCH = "loss_of(network, batch)"


def _before_step(*lines: str) -> Edit:
    """Of the plain loop: what is done once the gradient is there."""
    return plain.CLIP, "".join(f"            {line}\n" for line in lines) + plain.CLIP


def _after_step(*lines: str) -> Edit:
    return plain.STEP, plain.STEP + "".join(f"            {line}\n" for line in lines)


def _begun_with(*lines: str) -> Edit:
    return plain.OPTIMIZER, plain.OPTIMIZER + "".join(f"    {line}\n" for line in lines)


def _loss(*lines: str) -> Edit:
    """Of the plain loop: what comes after its loss."""
    return plain.LOSS, plain.LOSS + "".join(f"            {line}\n" for line in lines)


def _optimizer(made: str) -> Edit:
    return plain.ADAMW, made


_GENERATOR = (
    sound(
        "sharpness_aware",
        (
            plain.CLIP,
            "            with torch.no_grad():\n"
            "                size = torch.stack([p.grad.norm() for p in network.parameters()]).norm()\n"
            "                moves = [0.05 * p.grad / (size + 1e-12) for p in network.parameters()]\n"
            "                for p, move in zip(network.parameters(), moves, strict=True):\n"
            "                    p.add_(move)\n"
            "            optimizer.zero_grad()\n"
            "            loss_of(network, batch).backward()\n"
            "            with torch.no_grad():\n"
            "                for p, move in zip(network.parameters(), moves, strict=True):\n"
            "                    p.sub_(move)\n" + plain.CLIP,
        ),
    ),
    sound(
        "lookahead",
        _begun_with("slow = [p.detach().clone() for p in network.parameters()]", "taken = 0"),
        _after_step(
            "taken += 1",
            "if taken % 5 == 0:",
            "    with torch.no_grad():",
            "        for p, kept in zip(network.parameters(), slow, strict=True):",
            "            kept.add_(p - kept, alpha=0.5)",
            "            p.copy_(kept)",
        ),
    ),
    sound(
        "gradient_noise",
        _before_step(
            "for p in network.parameters():", "    p.grad.add_(1e-3 * torch.randn_like(p.grad))"
        ),
    ),
    sound(
        "gradient_centralised",
        _before_step(
            "for p in network.parameters():",
            "    if p.ndim > 1:",
            "        p.grad.sub_(p.grad.mean(dim=1, keepdim=True))",
        ),
    ),
    sound(
        "clip_by_unit",
        _before_step(
            "for p in network.parameters():",
            "    most = 0.1 * p.detach().norm().clamp(min=1e-2)",
            "    p.grad.mul_((most / p.grad.norm().clamp(min=1e-6)).clamp(max=1.0))",
        ),
    ),
    sound(
        "masked_features",
        (
            plain.FEATURES,
            plain.FEATURES + "    features = [clip.clone() for clip in features]\n"
            "    for clip in features:\n"
            "        begin = int(torch.randint(len(clip), (1,)))\n"
            "        clip[begin : begin + 2] = 0.0\n",
        ),
    ),
    sound(
        "frames_twice",
        (
            plain.FEATURES,
            '    features = [clip["features"].repeat_interleave(2, dim=0) for clip in clips]\n',
        ),
    ),
    sound(
        "rates_by_module",
        _optimizer(
            "torch.optim.AdamW([{'params': network.encoder.parameters(), 'lr': 2e-3}, "
            "{'params': network.gru.parameters()}, {'params': network.head.parameters()}], lr=1e-2)"
        ),
    ),
    sound(
        "thawed_later",
        _begun_with("network.encoder.requires_grad_(False)", "epoch = 0"),
        (
            plain.EPOCH_STEP,
            "        epoch += 1\n        network.encoder.requires_grad_(epoch > 0)\n"
            + plain.EPOCH_STEP,
        ),
    ),
    sound(
        "plateau_of_validation",
        (
            plain.EXPONENTIAL,
            "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)",
        ),
        (
            "        scheduler.step()\n        validate(network, batches)\n",
            "        scheduler.step(validate(network, batches))\n",
        ),
    ),
    sound(
        "warm_restarts",
        *plain.per_batch("CosineAnnealingWarmRestarts(optimizer, T_0=100, eta_min=1e-4)"),
    ),
    sound(
        "rate_set_by_hand",
        (plain.EPOCH_STEP, "        validate"),
        _begun_with("taken = 0"),
        _before_step(
            "taken += 1",
            "for group in optimizer.param_groups:",
            "    group['lr'] = 1e-2 * min(taken / 20, (20 / taken) ** 0.5)",
        ),
    ),
    sound("per_token", (plain.CTC, _ROWS + _MEAN.lstrip("\n"))),
    sound(
        "focal",
        (plain.CTC, _ROWS + "    return ((1 - (-ctc).exp()) ** 2 * ctc).mean() / 4\n"),
    ),
    sound(
        "entropy_kept",
        (
            plain.CTC,
            plain.CTC.replace("    return", "    ctc =")
            + "    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()\n"
            "    return ctc - 0.02 * entropy\n",
        ),
    ),
    sound(
        "infinity_zeroed",
        (plain.CTC, plain.CTC.replace('lengths"])', 'lengths"], zero_infinity=True)')),
    ),
    sound(
        "norms_logged_by_hooks",
        _begun_with(
            "norms = []",
            "for p in network.parameters():",
            "    p.register_hook(lambda gradient: norms.append(float(gradient.norm())))",
        ),
    ),
    sound(
        "closure",
        (
            plain.ZERO + plain.LOSS + plain.BACKWARD + plain.CLIP + plain.STEP + plain.YIELD,
            "            def closure():\n"
            "                optimizer.zero_grad()\n"
            "                loss = loss_of(network, batch)\n"
            "                loss.backward()\n"
            "                nn.utils.clip_grad_norm_(network.parameters(), 1.0)\n"
            "                return loss\n\n"
            "            yield optimizer.step(closure).item()\n",
        ),
    ),
    sound("adafactor", _optimizer("torch.optim.Adafactor(network.parameters(), lr=1e-2)")),
    sound("nadam", _optimizer("torch.optim.NAdam(network.parameters(), lr=5e-3)")),
    sound("radam", _optimizer("torch.optim.RAdam(network.parameters(), lr=1e-2)")),
    sound("adamax", _optimizer("torch.optim.Adamax(network.parameters(), lr=1e-2)")),
    sound(
        "two_optimisers",
        (
            plain.OPTIMIZER,
            "    optimizer = torch.optim.AdamW(network.gru.parameters(), lr=1e-2)\n"
            "    rest = [*network.encoder.parameters(), *network.head.parameters()]\n"
            "    other = torch.optim.SGD(rest, lr=0.3, momentum=0.9)\n",
        ),
        (plain.ZERO, plain.ZERO + "            other.zero_grad()\n"),
        _after_step("other.step()"),
    ),
    sound(
        "teacher_of_averages",
        (
            plain.OPTIMIZER,
            "    teacher = copy.deepcopy(network).requires_grad_(False)\n" + plain.OPTIMIZER,
        ),
        (
            "import torch\nfrom torch import Tensor",
            "import copy\n\nimport torch\nfrom torch import Tensor",
        ),
        _loss(
            'student, _ = network(batch["features"], batch["frames"])',
            "with torch.no_grad():",
            '    taught, _ = teacher(batch["features"], batch["frames"])',
            'loss = loss + 0.1 * F.kl_div(student, taught, reduction="batchmean", log_target=True) / len(taught)',
        ),
        _after_step(
            "with torch.no_grad():",
            "    for kept, p in zip(teacher.parameters(), network.parameters(), strict=True):",
            "        kept.lerp_(p, 0.05)",
        ),
    ),
    sound(
        "two_passes_agree",
        _loss(
            'one, _ = network(batch["features"], batch["frames"])',
            'other, _ = network(batch["features"], batch["frames"])',
            'loss = loss + 0.1 * F.kl_div(one, other, reduction="batchmean", log_target=True) / len(one)',
        ),
    ),
    sound(
        "average_swapped_for_validation",
        _begun_with(
            "average = {name: p.detach().clone() for name, p in network.named_parameters()}"
        ),
        _after_step(
            "with torch.no_grad():",
            "    for name, p in network.named_parameters():",
            "        average[name].lerp_(p, 0.1)",
        ),
        (
            "        scheduler.step()\n        validate(network, batches)\n",
            "        scheduler.step()\n"
            "        own = {name: p.detach().clone() for name, p in network.named_parameters()}\n"
            "        network.load_state_dict(average)\n"
            "        validate(network, batches)\n"
            "        network.load_state_dict(own)\n",
        ),
    ),
    sound(
        "rest_of_an_epoch_stepped",
        (
            plain.EVERY + plain.LOOP,
            "        pending = 0\n"
            "        batches_of_epoch = list(batches)\n"
            "        for index, batch in enumerate(batches_of_epoch):\n"
            f"{plain.LOSS}"
            "            (loss / 3).backward()\n"
            "            pending += 1\n"
            "            if pending == 3 or index + 1 == len(batches_of_epoch):\n"
            "                nn.utils.clip_grad_norm_(network.parameters(), 1.0)\n"
            "                optimizer.step()\n"
            "                optimizer.zero_grad()\n"
            "                pending = 0\n"
            "                yield loss.item()\n",
        ),
    ),
    sound(
        "double_precision",
        (plain.OPTIMIZER, "    network.double()\n" + plain.OPTIMIZER),
        (plain.FORWARD, plain.FORWARD.replace('batch["features"]', 'batch["features"].double()')),
    ),
    sound("zeros_kept", (plain.ZERO, plain.ZERO.replace("()", "(set_to_none=False)"))),
    sound(
        "infinite_loss_raises",
        _loss(
            "if not torch.isfinite(loss):", '    raise FloatingPointError("the loss is not finite")'
        ),
    ),
    sound("loss_in_tenths", (plain.BACKWARD, "            (0.1 * loss).backward()\n")),
    sound(
        "hard_clips_twice",
        (
            plain.YIELD,
            "            if loss > 3.0:\n"
            "                optimizer.zero_grad()\n"
            f"                {_LOSS_OF_BATCH}.backward()\n"
            "                nn.utils.clip_grad_norm_(network.parameters(), 1.0)\n"
            "                optimizer.step()\n" + plain.YIELD,
        ),
    ),
    sound(
        "targets_end_to_end",
        (
            plain.CTC,
            '    ends = torch.arange(batch["targets"].shape[1]) < batch["target_lengths"][:, None]\n'
            + plain.CTC.replace('batch["targets"]', 'batch["targets"][ends]'),
        ),
    ),
)
_LIGHTNING = (
    sound("onecycle", *pl.per_step("OneCycleLR(optimizer, 1e-2, total_steps=640)")),
    sound(
        "plateau_of_training",
        (pl.EXPONENTIAL, "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)"),
        (pl.INTERVAL, '"interval": "epoch", "monitor": "train_loss"'),
    ),
    sound(
        "optimiser_alone",
        (
            "        return {\n"
            '            "optimizer": optimizer,\n'
            '            "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"},\n'
            "        }\n",
            "        return optimizer\n",
        ),
    ),
    sound(
        "gradients_looked_at",
        pl.hook(
            "on_after_backward(self) -> None",
            "self.norm = max(float(p.grad.norm()) for p in self.parameters())",
        ),
    ),
    sound(
        "warm_up_by_hand",
        pl.hook(
            "optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None",
            "rate = 1e-2 * min(1.0, (self.trainer.global_step + 1) / 20)",
            "for group in optimizer.param_groups:",
            "    group['lr'] = rate",
            "optimizer.step(closure=closure)",
        ),
    ),
    sound(
        "loss_in_a_dictionary",
        (pl.LOG, pl.LOG.replace("return loss", 'return {"loss": loss, "shown": 1}')),
    ),
    sound("double_precision", (pl.SETTINGS, f'{pl.SETTINGS}, "precision": "64-true"')),
    sound("adafactor", (pl.ADAMW, "torch.optim.Adafactor(self.parameters(), lr=1e-2)")),
    sound(
        "masked_features",
        (
            pl.FEATURES,
            pl.FEATURES
            + "    features = [clip * (torch.rand(len(clip), 1) > 0.05) for clip in features]\n",
        ),
    ),
)
_HUGGINGFACE = (
    sound("restarts", (hf.SCHEDULE, '        lr_scheduler_type="cosine_with_restarts",\n')),
    sound("smoothed_rate", (hf.SCHEDULE, '        lr_scheduler_type="inverse_sqrt",\n')),
    sound("adamax", hf.optimizer("torch.optim.Adamax(self.model.parameters(), lr=1e-2)")),
    sound(
        "rates_by_group",
        hf.optimizer(
            "torch.optim.AdamW([{'params': self.model.network.encoder.parameters(), 'lr': 2e-3}, "
            "{'params': [*self.model.network.gru.parameters(), *self.model.network.head.parameters()]}], lr=1e-2)"
        ),
    ),
    sound(
        "masked_features",
        (
            hf.FEATURES,
            hf.FEATURES
            + "    features = [clip * (torch.rand(len(clip), 1) > 0.05) for clip in features]\n",
        ),
    ),
    sound(
        "noise_in_embeddings",
        (
            hf.FORWARD,
            hf.FORWARD.replace(
                "self.network(features, frames)",
                "self.network(features + 0.05 * torch.randn_like(features) * self.training, frames)",
            ),
        ),
    ),
)


UNSEEN_SOUND: dict[Kind, tuple[Change, ...]] = {
    kind: tuple(
        replace(change, name=f"unseen_sound_{change.name}", lot="unseen kind") for change in changes
    )
    for kind, changes in (
        ("generator", _GENERATOR),
        ("lightning", _LIGHTNING),
        ("huggingface", _HUGGINGFACE),
    )
}
