"""Changes to the LightningModule and its DataModule."""

from __future__ import annotations

from examination.loops.planting import Change, Edit, fault, sound

ADAMW = "torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=1e-2)"
SGD = "torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)"
OPTIMIZER = f"        optimizer = {ADAMW}\n"
EXPONENTIAL = "torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)"
INTERVAL = '"interval": "epoch"'
SETTINGS = '"gradient_clip_val": 1.0'
LOSS = "        loss = self.loss_of(batch)\n"
LOG = '        self.log("train_loss", loss)\n        return loss\n'
FORWARD = '        log_probs, steps = self(batch["features"], batch["frames"])\n'
CTC = 'F.ctc_loss(log_probs, batch["targets"], steps, batch["target_lengths"])'
MADE = "        self.network = Network()\n"
VALIDATION = "    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:\n"
LOG_VAL = '        self.log("val_loss", self.loss_of(batch))\n'
CONFIGURE = "    def configure_optimizers(self) -> Any:\n"
FRAMES = '        "frames": torch.tensor([len(clip) for clip in features]),\n'
LENGTHS = '        "target_lengths": torch.tensor([len(target) for target in targets]),\n'
FEATURES = '    features = [clip["features"] for clip in clips]\n'
TARGETS = '    targets = [clip["target"] for clip in clips]\n'
SORT = '    clips = sorted(clips, key=lambda clip: len(clip["features"]), reverse=True)\n'
TRAIN_LOADER = "DataLoader(Clips(), batch_size=BATCH, shuffle=True, collate_fn=collate)"


def per_step(schedule: str) -> tuple[Edit, ...]:
    return (EXPONENTIAL, f"torch.optim.lr_scheduler.{schedule}"), (INTERVAL, '"interval": "step"')


def hook(head: str, *lines: str) -> Edit:
    """One more method of the module."""
    return VALIDATION, f"    def {head}:\n" + "".join(
        f"        {line}\n" for line in lines
    ) + f"\n{VALIDATION}"


def by_hand(*lines: str) -> tuple[Edit, ...]:
    """Manual optimisation; lines: what follows the loss."""
    body = "".join(f"        {line}\n" for line in ("optimizer = self.optimizers()", *lines))
    return (
        (MADE, f"{MADE}        self.automatic_optimization = False\n"),
        (LOG, body + LOG),
        (", " + SETTINGS, ""),
    )


CLIPPED = "self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm='norm')"
STEPPED = ("optimizer.zero_grad()", "self.manual_backward(loss)", CLIPPED, "optimizer.step()")
CLIP_HOOK = (
    "configure_gradient_clipping(self, optimizer, gradient_clip_val=None, "
    "gradient_clip_algorithm=None)"
)

FAULTS: tuple[Change, ...] = (
    fault("never_zeroed", "accumulation", *by_hand(*STEPPED[1:])),
    fault(
        "never_zeroed_by_hook",
        "accumulation",
        hook("optimizer_zero_grad(self, epoch, batch_idx, optimizer)", "return"),
        held_out=True,
    ),
    fault(
        "zeroed_before_step", "accumulation", hook("on_after_backward(self)", "self.zero_grad()")
    ),
    fault(
        "summed_over_parts",
        "accumulation",
        *by_hand(
            "self.manual_backward(loss)",
            "if (batch_idx + 1) % 4 == 0:",
            f"    {CLIPPED}",
            "    optimizer.step()",
            "    optimizer.zero_grad()",
        ),
    ),
    fault(
        "stepped_on_no_batch",
        "accumulation",
        *by_hand(
            "self.manual_backward(loss)",
            "if (batch_idx + 1) % 32 == 0:",
            "    optimizer.step()",
            "    optimizer.zero_grad()",
        ),
        also=("batches",),
    ),
    fault(
        "zeroed_each_part",
        "accumulation",
        *by_hand(
            "optimizer.zero_grad()",
            "self.manual_backward(loss / 4)",
            "if (batch_idx + 1) % 4 == 0:",
            "    optimizer.step()",
        ),
        held_out=True,
    ),
    fault(
        "schedule_per_batch", "scheduler", (INTERVAL, '"interval": "step"'), (", 0.95)", ", 0.7)")
    ),
    fault(
        "dead_after_warmup",
        "scheduler",
        *per_step("LambdaLR(optimizer, lambda step: (step + 1) / 10 if step < 10 else 0.0)"),
    ),
    fault(
        "never_warmed_up",
        "scheduler",
        *per_step("LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100_000))"),
    ),
    fault(
        "warmup_not_stepped",
        "scheduler",
        (EXPONENTIAL, "torch.optim.lr_scheduler.LinearLR(optimizer, 1e-4)"),
        (INTERVAL, '"interval": "epoch", "frequency": 1000'),
        held_out=True,
    ),
    fault(
        "total_of_another_run",
        "scheduler",
        *per_step("OneCycleLR(optimizer, 1e-2, total_steps=24)"),
        held_out=True,
    ),
    fault(
        "warmup_by_epoch",
        "scheduler",
        (
            EXPONENTIAL,
            "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 500))",
        ),
    ),
    fault("half_ctc", "precision", (CTC, CTC.replace("(log_probs", "(log_probs.half().float()"))),
    fault(
        "bfloat16_ctc",
        "precision",
        (CTC, CTC.replace("(log_probs", "(log_probs.bfloat16().float()")),
        (SETTINGS, f'{SETTINGS}, "precision": "bf16-mixed"'),
        held_out=True,
    ),
    fault(
        "skipped_when_large",
        "clip",
        hook(
            "on_before_optimizer_step(self, optimizer)",
            "norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]",
            "if torch.stack(norms).norm() > 0.1:",
            "    self.zero_grad()",
        ),
        also=("accumulation",),
    ),
    fault("clip_too_small", "clip", (ADAMW, SGD), (SETTINGS, '"gradient_clip_val": 1e-4')),
    fault(
        "clip_by_tiny_value",
        "clip",
        (ADAMW, SGD),
        (SETTINGS, '"gradient_clip_val": 1e-6, "gradient_clip_algorithm": "value"'),
        held_out=True,
    ),
    fault("clip_after_step", "clip", *by_hand(STEPPED[0], STEPPED[1], STEPPED[3], CLIPPED)),
    fault(
        "clip_to_nothing",
        "clip",
        hook(
            CLIP_HOOK,
            "for p in self.parameters():",
            "    if p.grad is not None:",
            "        p.grad.clamp_(max=0.0)",
        ),
        held_out=True,
    ),
    fault(
        "optimizer_before_head",
        "optimiser",
        hook("on_train_start(self)", "self.network.head = torch.nn.Linear(48, 8)"),
    ),
    fault("optimizer_of_another", "optimiser", (ADAMW, ADAMW.replace("self.", "Network()."))),
    fault(
        "epsilon_too_large",
        "optimiser",
        (ADAMW, "torch.optim.AdamW(self.parameters(), lr=1e-3, eps=1e-1)"),
    ),
    fault(
        "weight_decay_too_large",
        "optimiser",
        (ADAMW, ADAMW.replace("weight_decay=1e-2", "weight_decay=50.0")),
    ),
    fault(
        "rate_too_small",
        "optimiser",
        (ADAMW, ADAMW.replace("lr=1e-2", "lr=1e-7")),
        also=("scheduler",),
    ),
    fault(
        "rate_too_large",
        "optimiser",
        (ADAMW, ADAMW.replace("lr=1e-2", "lr=5.0")),
        also=("scheduler",),
        held_out=True,
    ),
    fault(
        "maximised",
        "optimiser",
        (ADAMW, ADAMW.replace("lr=1e-2", "lr=1e-2, maximize=True")),
        also=("loss",),
        held_out=True,
    ),
    fault(
        "encoder_not_given",
        "optimiser",
        (ADAMW, ADAMW.replace("self.parameters()", "self.network.head.parameters()")),
    ),
    fault(
        "new_optimizer_each_epoch",
        "optimiser",
        hook("on_train_epoch_start(self)", "self.trainer.strategy.setup_optimizers(self.trainer)"),
        also=("scheduler",),
    ),
    fault("eval_left_on", "mode", hook("on_train_start(self)", "self.eval()")),
    fault("eval_after_a_look", "mode", (LOSS, f"{LOSS}        self.eval()\n"), held_out=True),
    fault("validated_in_train_mode", "mode", hook("on_validation_start(self)", "self.train()")),
    fault(
        "trained_on_validation",
        "mode",
        (
            LOG_VAL,
            (
                "        with torch.enable_grad():\n            self.loss_of(batch).backward()\n   "
                "     self.optimizers().step()\n"
            ),
        ),
        also=("state", "accumulation"),
    ),
    fault(
        "encoder_without_gradient",
        "loss",
        (
            FORWARD,
            "        with torch.no_grad():\n            encoded = self.network.encoder("
            'batch["features"])\n        log_probs, steps = self.network.decode(encoded, '
            'batch["frames"])\n',
        ),
    ),
    fault(
        "output_detached",
        "loss",
        (
            FORWARD,
            '        log_probs, steps = self.network.decode(self.network.encoder(batch["features"]).detach(), batch["frames"])\n',
        ),
        held_out=True,
    ),
    fault(
        "loss_wrapped_again",
        "loss",
        (LOG, f"        loss = torch.tensor(loss.item(), requires_grad=True)\n{LOG}"),
    ),
    fault("wrong_blank", "loss", (CTC, CTC.replace('lengths"])', 'lengths"], blank=7)'))),
    fault(
        "lengths_of_the_padded",
        "loss",
        (CTC, CTC.replace("steps,", "torch.full_like(steps, len(log_probs)),")),
        also=("batches",),
        held_out=True,
    ),
    fault(
        "loss_of_probabilities",
        "loss",
        (CTC, CTC.replace("log_probs,", "log_probs.exp(),")),
        held_out=True,
    ),
    fault(
        "state_carried",
        "state",
        (
            FORWARD,
            "        carried = self.network.hidden\n"
            '        if carried is not None and carried.shape[1] != len(batch["frames"]):\n'
            "            carried = None\n        log_probs, steps = self.network("
            'batch["features"], batch["frames"], carried)\n',
        ),
    ),
    fault(
        "seeded_each_step",
        "state",
        hook("on_train_batch_start(self, batch, batch_idx)", "torch.manual_seed(0)"),
        also=("mode",),
    ),
    fault(
        "weights_put_back",
        "state",
        hook(
            "on_train_batch_end(self, outputs, batch, batch_idx)",
            "self.network.load_state_dict(self.best)",
        ),
        (
            MADE,
            (
                f"{MADE}        self.best = "
                f"{{name: value.clone() for name, value in self.network.state_dict().items()}}\n"
            ),
        ),
        also=("optimiser",),
        held_out=True,
    ),
    fault(
        "inputs_sorted_alone",
        "batches",
        (SORT, ""),
        (
            FEATURES,
            '    features = sorted((clip["features"] for clip in clips), key=len, reverse=True)\n',
        ),
    ),
    fault(
        "targets_sorted_alone",
        "batches",
        (TARGETS, '    targets = sorted((clip["target"] for clip in clips), key=len)\n'),
        held_out=True,
    ),
    fault(
        "frames_cut",
        "batches",
        (FEATURES, '    features = [clip["features"][:6] for clip in clips]\n'),
    ),
    fault(
        "labels_padded_as_labels",
        "batches",
        (
            LENGTHS,
            '        "target_lengths": torch.full((len(targets),), max(map(len, targets))),\n',
        ),
        (
            "pad_sequence(targets, batch_first=True)",
            "pad_sequence(targets, batch_first=True, padding_value=1)",
        ),
        also=("loss",),
    ),
    fault(
        "normalised_twice",
        "batches",
        (FEATURES, '    features = [(clip["features"] - 5.0) / 3.0 for clip in clips]\n'),
    ),
    fault(
        "label_off_by_one",
        "batches",
        (TARGETS, '    targets = [clip["target"] - 1 for clip in clips]\n'),
        also=("loss",),
    ),
    fault(
        "frames_too_short",
        "batches",
        (FRAMES, '        "frames": torch.tensor([len(clip) // 2 for clip in features]),\n'),
        held_out=True,
    ),
    fault(
        "shuffled_in_transfer",
        "batches",
        hook(
            "on_after_batch_transfer(self, batch, dataloader_idx)",
            (
                "return "
                "{**batch, 'targets': batch['targets'].flip(0), 'target_lengths': batch['target_lengths'].flip(0)}"
            ),
        ),
        also=("loss",),
    ),
    fault(
        "rounded_to_whole_numbers",
        "batches",
        (FEATURES, '    features = [(clip["features"] / 10).long().float() for clip in clips]\n'),
        held_out=True,
    ),
)

SOUND: tuple[Change, ...] = (
    sound("as_it_is"),
    sound("adam", (ADAMW, "torch.optim.Adam(self.parameters(), lr=1e-2)")),
    sound("sgd", (ADAMW, SGD)),
    sound(
        "accumulation",
        (SETTINGS, f'{SETTINGS}, "accumulate_grad_batches": 4'),
        (EXPONENTIAL, EXPONENTIAL.replace("0.95", "0.98")),
    ),
    sound(
        "accumulation_by_hand",
        *by_hand(
            "self.manual_backward(loss / 4)",
            "if (batch_idx + 1) % 4 == 0:",
            f"    {CLIPPED}",
            "    optimizer.step()",
            "    optimizer.zero_grad()",
        ),
        held_out=True,
    ),
    sound("bfloat16", (SETTINGS, f'{SETTINGS}, "precision": "bf16-mixed"')),
    sound(
        "schedule_per_step",
        *per_step(
            "OneCycleLR(optimizer, 1e-2, total_steps=int(self.trainer.estimated_stepping_batches))"
        ),
    ),
    sound("warmup", *per_step("LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))")),
    sound("cosine", *per_step("CosineAnnealingLR(optimizer, 640)"), held_out=True),
    sound("by_hand", *by_hand(*STEPPED)),
    sound(
        "average_of_weights",
        hook(
            "on_train_batch_end(self, outputs, batch, batch_idx)",
            "self.average.update_parameters(self.network)",
        ),
        (
            MADE,
            f"{MADE}        self.average = torch.optim.swa_utils.AveragedModel(self.network, "
            "multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)).requires_grad_("
            "False)\n",
        ),
    ),
    sound(
        "checkpointed",
        (
            FORWARD,
            "        encoded = torch.utils.checkpoint.checkpoint(self.network.encoder, "
            'batch["features"], use_reentrant=False)\n        log_probs, '
            'steps = self.network.decode(encoded, batch["frames"])\n',
        ),
        (
            "import torch\nfrom torch import Tensor",
            "import torch\nimport torch.utils.checkpoint\nfrom torch import Tensor",
        ),
    ),
    sound("compiled", (MADE, f'{MADE}        self.network.compile(backend="eager")\n')),
    sound("not_sorted", (SORT, "")),
    sound(
        "decay_groups",
        (
            ADAMW,
            "torch.optim.AdamW([{'params': [p for p in self.parameters() if p.ndim > 1], "
            "'weight_decay': 0.1}, {'params': [p for p in self.parameters() if p.ndim < 2], "
            "'weight_decay': 0.0}], lr=1e-2)",
        ),
    ),
    sound(
        "frozen_encoder",
        (OPTIMIZER, f"        self.network.encoder.requires_grad_(False)\n{OPTIMIZER}"),
        (
            ADAMW,
            ADAMW.replace("self.parameters()", "[p for p in self.parameters() if p.requires_grad]"),
        ),
    ),
    sound("not_clipped", (", " + SETTINGS, ""), held_out=True),
    sound(
        "clip_by_value", (SETTINGS, '"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"')
    ),
    sound(
        "rates_by_group",
        (
            ADAMW,
            "torch.optim.Adam([{'params': self.network.encoder.parameters(), 'lr': 3e-3}, "
            "{'params': self.network.gru.parameters()}, {'params': self.network.head.parameters("
            ")}], lr=1e-2)",
        ),
        held_out=True,
    ),
)
