"""Changes to the model, the collator and the TrainingArguments."""

from __future__ import annotations

from examination.loops.planting import Change, Edit, fault, sound

TRAINER = 'class OurTrainer(Trainer):\n    """As the library\'s."""\n'
RATE = "        learning_rate=1e-2,\n"
DECAY = "        weight_decay=1e-2,\n"
CLIP = "        max_grad_norm=1.0,\n"
WARMUP = "        warmup_steps=10,\n"
SCHEDULE = '        lr_scheduler_type="linear",\n'
EPOCHS = "        num_train_epochs=40,\n"
SGD = (RATE + DECAY, '        learning_rate=0.3,\n        optim="sgd",\n')
FORWARD = "        log_probs, steps = self.network(features, frames)\n"
CTC = "F.ctc_loss(log_probs, labels.masked_select(mask), steps, mask.sum(-1))"
MADE = "        self.network = Network()\n"
SIGNATURE = "frames: Tensor, labels: Tensor | None = None)"
FRAMES = '        "frames": torch.tensor([len(clip) for clip in features]),\n'
FEATURES = '    features = [clip["features"] for clip in clips]\n'
LABELS = '    labels = [clip["labels"] for clip in clips]\n'
SORT = '    clips = sorted(clips, key=lambda clip: len(clip["features"]), reverse=True)\n'
PADDED = "padding_value=NO_LABEL"


def method(head: str, *lines: str) -> Edit:
    """One more method of the Trainer."""
    body = "".join(f"        {line}\n" for line in lines)
    return TRAINER, f"{TRAINER}\n    def {head}:\n{body}"


def optimizer(made: str, *before: str) -> Edit:
    return method(
        "create_optimizer(self, model=None)",
        *before,
        f"self.optimizer = {made}",
        "return self.optimizer",
    )


def scheduler(made: str) -> Edit:
    return method(
        "create_scheduler(self, num_training_steps, optimizer=None)",
        f"self.lr_scheduler = torch.optim.lr_scheduler.{made}",
        "return self.lr_scheduler",
    )


def step(*lines: str) -> Edit:
    """A training_step around the library's."""
    return method("training_step(self, model, inputs, num_items_in_batch=None)", *lines)


THEIRS = "loss = super().training_step(model, inputs, num_items_in_batch)"
ADAMW = "torch.optim.AdamW({}, lr=1e-2)"

FAULTS: tuple[Change, ...] = (
    fault(
        "never_zeroed",
        "accumulation",
        (
            MADE,
            f"{MADE}\n    def zero_grad(self, set_to_none: bool = True) -> None:\n        pass\n",
        ),
    ),
    fault("zeroed_before_step", "accumulation", step(THEIRS, "model.zero_grad()", "return loss")),
    fault(
        "summed_over_parts",
        "accumulation",
        (EPOCHS, f"{EPOCHS}        gradient_accumulation_steps=4,\n"),
        (SIGNATURE, SIGNATURE[:-1] + ", **kwargs: Any)"),
    ),
    fault(
        "zeroed_each_part",
        "accumulation",
        (EPOCHS, f"{EPOCHS}        gradient_accumulation_steps=4,\n"),
        step("model.zero_grad()", THEIRS, "return loss"),
        held_out=True,
    ),
    fault(
        "schedule_for_another_run",
        "scheduler",
        scheduler("LinearLR(optimizer or self.optimizer, 1.0, 0.0, total_iters=12)"),
    ),
    fault(
        "schedule_per_batch",
        "scheduler",
        (WARMUP, ""),
        scheduler("ExponentialLR(optimizer or self.optimizer, 0.7)"),
    ),
    fault(
        "dead_after_warmup",
        "scheduler",
        scheduler(
            "LambdaLR(optimizer or self.optimizer, lambda step: (step + 1) / 10 if step < 10 "
            "else 0.0)"
        ),
    ),
    fault("never_warmed_up", "scheduler", (WARMUP, "        warmup_steps=100_000,\n")),
    fault("too_few_steps", "scheduler", (EPOCHS, "        max_steps=12,\n"), held_out=True),
    fault(
        "warmed_up_twice",
        "scheduler",
        step(
            "self.lr_scheduler.step()",
            "for group in self.optimizer.param_groups:",
            "    group['lr'] *= 1e-4",
            THEIRS,
            "return loss",
        ),
        held_out=True,
    ),
    fault("half_ctc", "precision", (CTC, CTC.replace("(log_probs", "(log_probs.half().float()"))),
    fault(
        "bfloat16_ctc",
        "precision",
        (CTC, CTC.replace("(log_probs", "(log_probs.bfloat16().float()")),
        (EPOCHS, f"{EPOCHS}        bf16=True,\n"),
        held_out=True,
    ),
    fault(
        "skipped_when_large",
        "clip",
        step(
            THEIRS,
            "norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]",
            "if torch.stack(norms).norm() > 0.1:",
            "    model.zero_grad()",
            "return loss",
        ),
        also=("accumulation",),
    ),
    fault("clip_too_small", "clip", SGD, (CLIP, "        max_grad_norm=1e-4,\n")),
    fault(
        "clip_before_the_rest",
        "clip",
        step(THEIRS, "torch.nn.utils.clip_grad_value_(model.parameters(), 1e-6)", "return loss"),
        SGD,
        held_out=True,
    ),
    fault(
        "clip_by_tiny_value",
        "clip",
        method(
            "_clip_grad_norm(self, model)",
            "torch.nn.utils.clip_grad_value_(model.parameters(), 1e-6)",
            "return torch.tensor(1e-6)",
        ),
        SGD,
        held_out=True,
    ),
    fault(
        "clip_to_nothing",
        "clip",
        step(
            THEIRS,
            "for p in model.parameters():",
            "    if p.grad is not None:",
            "        p.grad.clamp_(max=0.0)",
            "return loss",
        ),
        held_out=True,
    ),
    fault(
        "optimizer_before_head",
        "optimiser",
        optimizer(
            ADAMW.format("self.model.parameters()"),
            "super().create_optimizer()",
            "self.model.network.head = nn.Linear(48, 8)",
            "return self.optimizer",
        ),
    ),
    fault("optimizer_of_another", "optimiser", optimizer(ADAMW.format("Model().parameters()"))),
    fault(
        "epsilon_too_large",
        "optimiser",
        (RATE, "        learning_rate=1e-3,\n        adam_epsilon=1e-1,\n"),
    ),
    fault("weight_decay_too_large", "optimiser", (DECAY, "        weight_decay=50.0,\n")),
    fault(
        "rate_too_small", "optimiser", (RATE, "        learning_rate=1e-7,\n"), also=("scheduler",)
    ),
    fault(
        "rate_too_large",
        "optimiser",
        (RATE, "        learning_rate=5.0,\n"),
        also=("scheduler",),
        held_out=True,
    ),
    fault(
        "maximised",
        "optimiser",
        optimizer("torch.optim.AdamW(self.model.parameters(), lr=1e-2, maximize=True)"),
        also=("loss",),
        held_out=True,
    ),
    fault(
        "encoder_not_given",
        "optimiser",
        optimizer(ADAMW.format("self.model.network.head.parameters()")),
    ),
    fault(
        "rate_of_pretraining",
        "optimiser",
        (RATE, '        learning_rate=1e-5,\n        optim="sgd",\n'),
        also=("scheduler",),
    ),
    fault(
        "decay_for_every_group",
        "optimiser",
        optimizer("torch.optim.SGD(self.model.parameters(), lr=1e-2, weight_decay=50.0)"),
        held_out=True,
    ),
    fault(
        "eval_left_on",
        "mode",
        method(
            "compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
            "model.eval()",
            "return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)",
        ),
    ),
    fault(
        "dropout_off_in_forward",
        "mode",
        (FORWARD, f"        self.network.eval()\n{FORWARD}"),
        also=("network",),
        held_out=True,
    ),
    fault(
        "validated_in_train_mode",
        "mode",
        step(
            THEIRS,
            "with torch.no_grad():",
            "    self.compute_loss(model.train(), self._prepare_inputs(inputs))",
            "return loss",
        ),
    ),
    fault(
        "trained_on_validation",
        "mode",
        step(
            THEIRS,
            "model.eval()",
            "self.compute_loss(model, self._prepare_inputs(inputs)).backward()",
            "return loss",
        ),
        also=("accumulation", "state"),
    ),
    fault(
        "encoder_without_gradient",
        "loss",
        (
            FORWARD,
            "        with torch.no_grad():\n            encoded = self.network.encoder(features)\n"
            "        log_probs, steps = self.network.decode(encoded, frames)\n",
        ),
        also=("network",),
    ),
    fault(
        "output_detached",
        "loss",
        (
            FORWARD,
            (
                "        log_probs, steps = "
                "self.network.decode(self.network.encoder(features).detach(), frames)\n"
            ),
        ),
        also=("network",),
        held_out=True,
    ),
    fault(
        "loss_wrapped_again",
        "loss",
        method(
            "compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
            "loss = super().compute_loss(model, inputs, False, num_items_in_batch)",
            "return torch.tensor(loss.item(), requires_grad=True)",
        ),
    ),
    fault("wrong_blank", "loss", (CTC, CTC.replace("sum(-1))", "sum(-1), blank=7)"))),
    fault(
        "lengths_of_the_padded",
        "loss",
        (CTC, CTC.replace("steps,", "torch.full_like(steps, len(log_probs)),")),
        also=("batches",),
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
            "        if carried is not None and carried.shape[1] != len(frames):\n"
            "            carried = None\n        log_probs, steps = self.network(features, "
            "frames, carried)\n",
        ),
        also=("loss", "network"),
    ),
    fault(
        "seeded_each_step",
        "state",
        step("torch.manual_seed(0)", THEIRS, "return loss"),
        also=("mode",),
    ),
    fault(
        "weights_put_back",
        "state",
        step(
            (
                "self.best = getattr(self, 'best', None) or "
                "{name: value.clone() for name, value in model.state_dict().items()}"
            ),
            "model.load_state_dict(self.best)",
            THEIRS,
            "return loss",
        ),
        also=("optimiser",),
        held_out=True,
    ),
    fault(
        "frozen_in_the_first_step",
        "state",
        step("model.network.gru.requires_grad_(False)", THEIRS, "return loss"),
        also=("optimiser",),
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
        "labels_sorted_alone",
        "batches",
        (LABELS, '    labels = sorted((clip["labels"] for clip in clips), key=len)\n'),
        held_out=True,
    ),
    fault(
        "frames_cut",
        "batches",
        (FEATURES, '    features = [clip["features"][:6] for clip in clips]\n'),
    ),
    fault("labels_padded_as_labels", "batches", (PADDED, "padding_value=1"), also=("loss",)),
    fault(
        "normalised_twice",
        "batches",
        (FEATURES, '    features = [(clip["features"] - 5.0) / 3.0 for clip in clips]\n'),
        held_out=True,
    ),
    fault(
        "label_off_by_one",
        "batches",
        (LABELS, '    labels = [clip["labels"] - 1 for clip in clips]\n'),
        also=("loss",),
    ),
    fault(
        "frames_too_short",
        "batches",
        (FRAMES, '        "frames": torch.tensor([len(clip) // 2 for clip in features]),\n'),
        held_out=True,
    ),
    fault(
        "all_masked",
        "batches",
        (
            FEATURES,
            '    features = [clip["features"] * (torch.rand(len(clip["features"]), 1) < 0.02) for clip in clips]\n',
        ),
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
    sound("sgd", SGD),
    sound(
        "adafactor",
        (RATE, '        learning_rate=1e-2,\n        optim="adafactor",\n'),
        held_out=True,
    ),
    sound("accumulation", (EPOCHS, f"{EPOCHS}        gradient_accumulation_steps=4,\n")),
    sound("bfloat16", (EPOCHS, f"{EPOCHS}        bf16=True,\n")),
    sound("cosine", (SCHEDULE, '        lr_scheduler_type="cosine",\n')),
    sound(
        "constant",
        (SCHEDULE, '        lr_scheduler_type="constant",\n'),
        (WARMUP, ""),
        held_out=True,
    ),
    sound("warmup", (WARMUP, "        warmup_steps=50,\n")),
    sound("own_optimizer", optimizer("torch.optim.Adam(self.model.parameters(), lr=1e-2)")),
    sound(
        "average_of_weights",
        step(
            THEIRS,
            "self.average = getattr(self, 'average', None) or torch.optim.swa_utils.AveragedModel("
            "model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))",
            "self.average.update_parameters(model)",
            "return loss",
        ),
    ),
    sound(
        "checkpointed",
        (
            FORWARD,
            "        encoded = torch.utils.checkpoint.checkpoint(self.network.encoder, features, "
            "use_reentrant=False)\n        log_probs, steps = self.network.decode(encoded, "
            "frames)\n",
        ),
        (
            "import torch\nfrom torch import Tensor, nn",
            "import torch\nimport torch.utils.checkpoint\nfrom torch import Tensor, nn",
        ),
    ),
    sound(
        "compiled",
        (EPOCHS, f'{EPOCHS}        torch_compile=True,\n        torch_compile_backend="eager",\n'),
    ),
    sound("not_sorted", (SORT, "")),
    sound("frozen_encoder", (MADE, f"{MADE}        self.network.encoder.requires_grad_(False)\n")),
    sound("not_clipped", (CLIP, "        max_grad_norm=0.0,\n"), held_out=True),
    sound(
        "own_loss",
        method(
            "compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
            "outputs = model(**inputs)",
            "return (outputs['loss'], outputs) if return_outputs else outputs['loss']",
        ),
    ),
    sound("another_mask", ("NO_LABEL = -100", "NO_LABEL = -1")),
    sound(
        "augmented",
        (
            FEATURES,
            '    features = [clip["features"] + 0.1 * torch.randn_like(clip["features"]) for clip in clips]\n',
        ),
        held_out=True,
    ),
)
