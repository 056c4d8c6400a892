"""Changes to the plain loop."""

from __future__ import annotations

from examination.loops.planting import Change, Edit, fault, sound

ZERO = "            optimizer.zero_grad()\n"
LOSS = "            loss = loss_of(network, batch)\n"
BACKWARD = "            loss.backward()\n"
CLIP = "            nn.utils.clip_grad_norm_(network.parameters(), 1.0)\n"
STEP = "            optimizer.step()\n"
YIELD = "            yield loss.item()\n"
EPOCH_STEP = "        scheduler.step()\n        validate"
ADAMW = "torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)"
SGD = "torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9)"
EXPONENTIAL = "torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)"
FORWARD = '    log_probs, steps = network(batch["features"], batch["frames"])\n'
CTC = '    return F.ctc_loss(log_probs, batch["targets"], steps, batch["target_lengths"])\n'
OPTIMIZER = f"    optimizer = {ADAMW}\n"
EVERY = "        for batch in batches:\n"
SCHEDULER = f"    scheduler = {EXPONENTIAL}\n"
TRAIN_MODE = "    network.train()\n    for _ in"
NO_GRAD = (
    "    with torch.no_grad():\n        losses = [loss_of(network, batch).item() for batch in "
    "batches]\n"
)
BACK_TO_TRAIN = "    network.train()\n    return"
FRAMES = '        "frames": torch.tensor([len(clip) for clip in features]),\n'
LENGTHS = '        "target_lengths": torch.tensor([len(target) for target in targets]),\n'
FEATURES = '    features = [clip["features"] for clip in clips]\n'
TARGETS = '    targets = [clip["target"] for clip in clips]\n'
SORT = '    clips = sorted(clips, key=lambda clip: len(clip["features"]), reverse=True)\n'
LOOP = ZERO + LOSS + BACKWARD + CLIP + STEP + YIELD


def per_batch(schedule: str) -> tuple[Edit, ...]:
    """A schedule that is stepped with the optimiser."""
    return (
        (EXPONENTIAL, f"torch.optim.lr_scheduler.{schedule}"),
        (EPOCH_STEP, "        validate"),
        (STEP, f"{STEP}            scheduler.step()\n"),
    )


def accumulated(body: str, count: int = 4) -> Edit:
    """Several batches a step; body: what is done with each batch's loss."""
    return EVERY + LOOP, (
        f"        for index, batch in enumerate(batches):\n{LOSS}{body}"
        f"            if (index + 1) % {count} == 0:\n"
        "                nn.utils.clip_grad_norm_(network.parameters(), 1.0)\n"
        "                optimizer.step()\n                optimizer.zero_grad()\n                "
        "yield loss.item()\n"
    )


def scaled(body: str) -> tuple[Edit, ...]:
    """With a GradScaler; body: from backward to step."""
    return (
        OPTIMIZER,
        f"{OPTIMIZER}    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)\n",
    ), (BACKWARD + CLIP + STEP, body)


def dataset_of(body: str) -> Edit:
    return (
        '        return {"features": (features - self.mean) / self.std, "target": target}\n',
        body,
    )


FAULTS: tuple[Change, ...] = (
    fault("never_zeroed", "accumulation", (ZERO, "")),
    fault("zeroed_before_step", "accumulation", (ZERO, ""), (BACKWARD, BACKWARD + ZERO)),
    fault(
        "zeroed_each_part",
        "accumulation",
        accumulated(f"{ZERO}            (loss / 4).backward()\n"),
        held_out=True,
    ),
    fault("summed_over_parts", "accumulation", accumulated(BACKWARD)),
    fault(
        "stepped_on_no_batch",
        "accumulation",
        accumulated("            (loss / 32).backward()\n", 32),
        also=("batches",),
    ),
    fault(
        "schedule_per_batch",
        "scheduler",
        (EPOCH_STEP, "        validate"),
        (STEP, f"{STEP}            scheduler.step()\n"),
        (", 0.95)", ", 0.7)"),
    ),
    fault(
        "dead_after_warmup",
        "scheduler",
        *per_batch("LambdaLR(optimizer, lambda step: (step + 1) / 10 if step < 10 else 0.0)"),
    ),
    fault(
        "never_warmed_up",
        "scheduler",
        *per_batch("LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100_000))"),
    ),
    fault(
        "warmup_not_stepped",
        "scheduler",
        (EXPONENTIAL, "torch.optim.lr_scheduler.LinearLR(optimizer, 1e-4)"),
        (EPOCH_STEP, "        validate"),
        held_out=True,
    ),
    fault(
        "schedule_of_another_optimizer",
        "scheduler",
        *per_batch(
            "LambdaLR(torch.optim.AdamW(network.parameters()), lambda step: min(1.0, (step + "
            "1) / 10))"
        ),
        (OPTIMIZER, OPTIMIZER.replace("1e-2, w", "1e-6, w")),
        also=("optimiser",),
        held_out=True,
    ),
    fault(
        "unscaled_without_update",
        "precision",
        *scaled(
            "            scaler.scale(loss).backward()\n            "
            f"scaler.unscale_(optimizer)\n{CLIP}{STEP}"
        ),
    ),
    fault(
        "clipped_before_unscaled",
        "clip",
        *scaled(
            f"            scaler.scale(loss).backward()\n{CLIP}            "
            "scaler.step(optimizer)\n            scaler.update()\n"
        ),
        (ADAMW, SGD),
        also=("precision",),
        held_out=True,
    ),
    fault(
        "never_unscaled",
        "precision",
        *scaled(f"            scaler.scale(loss).backward()\n{STEP}"),
        (ADAMW, SGD),
        also=("accumulation",),
    ),
    fault(
        "half_ctc",
        "precision",
        (CTC, CTC.replace("F.ctc_loss(log_probs", "F.ctc_loss(log_probs.half().float()")),
    ),
    fault(
        "scaler_never_updated",
        "precision",
        *scaled("            scaler.scale(loss).backward()\n            scaler.step(optimizer)\n"),
        held_out=True,
    ),
    fault(
        "skipped_when_large",
        "clip",
        (
            CLIP + STEP,
            "            if nn.utils.clip_grad_norm_(network.parameters(), 1.0) > 0.1:\n"
            f"                yield loss.item()\n                continue\n{STEP}",
        ),
    ),
    fault(
        "clip_too_small",
        "clip",
        (ADAMW, SGD),
        (", 1.0)\n            optim", ", 1e-4)\n            optim"),
    ),
    fault("clip_after_step", "clip", (CLIP + STEP, STEP + CLIP)),
    fault(
        "clip_by_tiny_value",
        "clip",
        (ADAMW, SGD),
        (CLIP, "            nn.utils.clip_grad_value_(network.parameters(), 1e-6)\n"),
        held_out=True,
    ),
    fault(
        "optimizer_before_head",
        "optimiser",
        (OPTIMIZER, f"{OPTIMIZER}    network.head = nn.Linear(48, 8)\n"),
    ),
    fault("optimizer_of_another", "optimiser", (ADAMW, ADAMW.replace("network", "Network()"))),
    fault(
        "epsilon_too_large",
        "optimiser",
        (ADAMW, "torch.optim.AdamW(network.parameters(), lr=1e-3, eps=1e-1)"),
        also=(),
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
        (ADAMW, ADAMW.replace("network.parameters()", "network.head.parameters()")),
    ),
    fault(
        "new_optimizer_each_epoch",
        "optimiser",
        (EVERY, f"        optimizer = {ADAMW}\n{EVERY}"),
        also=("scheduler",),
    ),
    fault("eval_left_on", "mode", (BACK_TO_TRAIN, "    return")),
    fault(
        "never_in_train_mode",
        "mode",
        (TRAIN_MODE, "    network.eval()\n    for _ in"),
        (BACK_TO_TRAIN, "    return"),
        held_out=True,
    ),
    fault("validated_in_train_mode", "mode", ("    network.eval()\n", "")),
    fault(
        "trained_on_validation",
        "mode",
        (
            NO_GRAD,
            (
                "    losses = []\n    for batch in batches:\n        loss_of(network, "
                "batch).backward()\n        losses.append(0.0)\n"
            ),
        ),
        (ZERO, ""),
        (STEP, STEP + ZERO),
        also=("accumulation", "state"),
    ),
    fault(
        "encoder_without_gradient",
        "loss",
        (
            FORWARD,
            '    with torch.no_grad():\n        encoded = network.encoder(batch["features"])\n'
            '    log_probs, steps = network.decode(encoded, batch["frames"])\n',
        ),
    ),
    fault(
        "output_detached",
        "loss",
        (
            FORWARD,
            '    log_probs, steps = network.decode(network.encoder(batch["features"]).detach(), batch["frames"])\n',
        ),
        held_out=True,
    ),
    fault(
        "loss_wrapped_again",
        "loss",
        (BACKWARD, "            loss = torch.tensor(loss.item(), requires_grad=True)\n" + BACKWARD),
    ),
    fault("wrong_blank", "loss", (CTC, CTC.replace('lengths"])', 'lengths"], blank=7)'))),
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
            "    carried = network.hidden\n    if carried is not None and carried.shape[1] != len("
            'batch["frames"]):\n        carried = None\n    log_probs, steps = network('
            'batch["features"], batch["frames"], carried)\n',
        ),
    ),
    fault(
        "seeded_each_step",
        "state",
        (LOSS, f"            torch.manual_seed(0)\n{LOSS}"),
        also=("mode",),
    ),
    fault(
        "frozen_too_late",
        "state",
        (EVERY, f"        network.encoder.requires_grad_(False)\n{EVERY}"),
        (ZERO, "            optimizer.zero_grad(set_to_none=False)\n"),
        (TRAIN_MODE, f"    loss_of(network, next(iter(batches))).backward()\n{TRAIN_MODE}"),
        also=("optimiser",),
        held_out=True,
    ),
    fault(
        "weights_put_back",
        "state",
        (
            OPTIMIZER,
            (
                "    best = "
                f"{{name: value.clone() for name, value in network.state_dict().items()}}\n{OPTIMIZER}"
            ),
        ),
        (STEP, f"{STEP}            network.load_state_dict(best)\n"),
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
        "all_masked",
        "batches",
        (
            FEATURES,
            '    features = [clip["features"] * (torch.rand(len(clip["features"]), 1) < 0.02) for clip in clips]\n',
        ),
        held_out=True,
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
    sound("adam", (ADAMW, "torch.optim.Adam(network.parameters(), lr=1e-2)")),
    sound("sgd", (ADAMW, SGD)),
    sound("rmsprop", (ADAMW, "torch.optim.RMSprop(network.parameters(), lr=3e-3)"), held_out=True),
    sound(
        "accumulation",
        accumulated("            (loss / 4).backward()\n"),
        (EXPONENTIAL, EXPONENTIAL.replace("0.95", "0.98")),
    ),
    sound(
        "bfloat16",
        (FORWARD, "    with torch.autocast('cpu', dtype=torch.bfloat16):\n    " + FORWARD),
    ),
    sound(
        "grad_scaler",
        *scaled(
            "            scaler.scale(loss).backward()\n            scaler.unscale_(optimizer)\n"
            f"{CLIP}            scaler.step(optimizer)\n            scaler.update()\n"
        ),
        held_out=True,
    ),
    sound("schedule_per_step", *per_batch("OneCycleLR(optimizer, 1e-2, total_steps=640)")),
    sound("warmup", *per_batch("LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))")),
    sound("cosine", *per_batch("CosineAnnealingLR(optimizer, 640)"), held_out=True),
    sound(
        "average_of_weights",
        (
            OPTIMIZER,
            (
                f"{OPTIMIZER}    average = torch.optim.swa_utils.AveragedModel(network, "
                "multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))\n"
            ),
        ),
        (STEP, f"{STEP}            average.update_parameters(network)\n"),
    ),
    sound(
        "bounded_weights",
        (
            STEP,
            f"{STEP}            with torch.no_grad():\n"
            "                for p in network.parameters():\n"
            "                    p.clamp_(-1.0, 1.0)\n",
        ),
    ),
    sound(
        "checkpointed",
        (
            FORWARD,
            '    encoded = torch.utils.checkpoint.checkpoint(network.encoder, batch["features"], '
            "use_reentrant=False)\n    log_probs, steps = network.decode(encoded, "
            'batch["frames"])\n',
        ),
        (
            "import torch\nfrom torch import Tensor, nn",
            "import torch\nimport torch.utils.checkpoint\nfrom torch import Tensor, nn",
        ),
    ),
    sound(
        "compiled",
        (TRAIN_MODE, f'    compiled = torch.compile(network, backend="eager")\n{TRAIN_MODE}'),
        (LOSS, LOSS.replace("network", "compiled")),
    ),
    sound("sorted_the_other_way", (SORT, SORT.replace(", reverse=True", ""))),
    sound("not_sorted", (SORT, ""), held_out=True),
    sound(
        "decay_groups",
        (
            ADAMW,
            "torch.optim.AdamW([{'params': [p for p in network.parameters() if p.ndim > 1], "
            "'weight_decay': 0.1}, {'params': [p for p in network.parameters() if p.ndim < 2], "
            "'weight_decay': 0.0}], lr=1e-2)",
        ),
    ),
    sound(
        "frozen_encoder",
        (OPTIMIZER, f"    network.encoder.requires_grad_(False)\n{OPTIMIZER}"),
        (
            ADAMW,
            ADAMW.replace(
                "network.parameters()", "[p for p in network.parameters() if p.requires_grad]"
            ),
        ),
    ),
    sound("not_clipped", (CLIP, ""), held_out=True),
    sound(
        "clip_by_value",
        (CLIP, "            nn.utils.clip_grad_value_(network.parameters(), 0.5)\n"),
    ),
    sound("sum_over_batch", (CTC, CTC.replace('lengths"])', 'lengths"], reduction="sum")'))),
    sound("zeroed_after_step", (ZERO, ""), (STEP, f"{STEP}{ZERO}")),
    sound(
        "padded_with_another_number",
        (
            "pad_sequence(targets, batch_first=True)",
            "pad_sequence(targets, batch_first=True, padding_value=3)",
        ),
    ),
    sound(
        "augmented",
        (
            FEATURES,
            '    features = [clip["features"] + 0.1 * torch.randn_like(clip["features"]) for clip in clips]\n',
        ),
    ),
    sound(
        "logged_with_a_clone",
        (LOSS, f"{LOSS}            shown = loss.detach().clone()\n"),
        (YIELD, "            yield float(shown)\n"),
        held_out=True,
    ),
)
