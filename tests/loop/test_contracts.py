"""Contracts of a loop: planted faults are found, by the right finding, part and line; sound changes
are not.

All of them, in three kinds of training: python -m examination.loops
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examination.loops.catalogue import faults, sound_changes, unseen
from examination.loops.fresh_changes import FRESH
from examination.loops.generator_changes import (
    ADAMW,
    BACKWARD,
    CLIP,
    CTC,
    EXPONENTIAL,
    FEATURES,
    LOSS,
    OPTIMIZER,
    SGD,
    YIELD,
)
from examination.loops.planting import Change, fault, sound
from examination.loops.reported_changes import REPORTED
from examination.loops.subjects import subject
from examination.loops.unseen_sound import UNSEEN_SOUND
from pytest_overfit.findings.examine import Checked
from pytest_overfit.loop.contracts import CONTRACTS, examine_loop, findings_of_loop
from tests.loop.planted import FINDING_OF

BY_HAND = (
    f"{BACKWARD}            for p in network.parameters():\n                p.grad.mul_(1e-6)\n"
)
ONE_SIDED = "            for p in network.parameters():\n                p.grad.clamp_(max=0.0)\n"
EACH_EPOCH = "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 500)"
FROZEN = f"{LOSS}            network.gru.requires_grad_(False)\n"
COUNTED = "from itertools import count\n\nBATCH = 4\nCOUNT = count()\n"
"""A state that no seed sets back."""
OWN = (
    fault("constant_reported", "loss", (YIELD, "            yield 0.0\n")),
    fault(
        "loss_of_the_batch_before",
        "loss",
        (OPTIMIZER, f"{OPTIMIZER}    last = 0.0\n"),
        (YIELD, "            yield last\n            last = loss.item()\n"),
    ),
    fault("gradient_shrunk_by_hand", "clip", (ADAMW, SGD), (BACKWARD, BY_HAND), (CLIP, "")),
    fault("gradient_clamped_below_zero", "clip", (CLIP, ONE_SIDED)),
    fault("warmup_by_epoch", "scheduler", (EXPONENTIAL, EACH_EPOCH)),
    fault("frozen_in_the_first_step", "state", (LOSS, FROZEN)),
    fault("dropout_off", "mode", (LOSS, f"            network.encoder.eval()\n{LOSS}")),
    fault(
        "rounded_to_halves",
        "batches",
        (FEATURES, '    features = [(2 * clip["features"]).round() / 2 for clip in clips]\n'),
    ),
    fault(
        "unseeded",
        "state",
        (FEATURES, '    features = [clip["features"] + 0.1 * next(COUNT) for clip in clips]\n'),
        ("BATCH = 4\n", COUNTED),
    ),
    fault(
        "nan_made_zero", "loss", (BACKWARD, f"            loss = loss.nan_to_num(0.0)\n{BACKWARD}")
    ),
    fault(
        "nan_left_out",
        "loss",
        (
            BACKWARD,
            f"            if not torch.isfinite(loss):\n                continue\n{BACKWARD}",
        ),
    ),
)
EVERY = (
    *faults("generator"),
    *unseen("generator"),
    *FRESH["generator"],
    *REPORTED["generator"],
    *OWN,
)
PLANTED = {change.name: change for change in EVERY}
SOUND = {
    change.name: change for change in (*sound_changes("generator"), *UNSEEN_SOUND["generator"])
}
SHOWN = (
    "never_zeroed",
    "zeroed_before_step",
    "schedule_per_batch",
    "never_unscaled",
    "half_ctc",
    "skipped_when_large",
    "clip_after_step",
    "optimizer_before_head",
    "eval_left_on",
    "loss_wrapped_again",
    "state_carried",
    "inputs_sorted_alone",
    "labels_padded_as_labels",
    "normalised_twice",
    "rounded_to_halves",
    "unseeded",
    "nan_made_zero",
    "nan_left_out",
    "constant_reported",
    "loss_of_the_batch_before",
    "unseen_loss_of_one_clip",
    "unseen_time_reversed",
    "unseen_head_hardly_trained",
    "unseen_dropout_of_nearly_all",
    "fresh_begun_anew_each_epoch",
    "fresh_layer_zeroed_before_step",
    "reported_clip_of_spent_parameters",
    "reported_lengths_before_sorting",
    "reported_plateau_of_the_wrong_way",
    "reported_schedule_before_step",
    "gradient_clamped_below_zero",
    "gradient_shrunk_by_hand",
    "warmup_by_epoch",
    "frozen_in_the_first_step",
    "dropout_off",
)
QUIET = (
    "as_it_is",
    "bfloat16",
    "accumulation",
    "average_of_weights",
    "bounded_weights",
    "checkpointed",
    "schedule_per_step",
    "unseen_sound_sharpness_aware",
    "unseen_sound_hard_clips_twice",
)


def examined(change: Change, folder: Path) -> tuple[Checked, ...]:
    return examine_loop(subject("generator", change, folder))


@pytest.mark.parametrize("name", SHOWN)
def test_a_fault_is_found_with_its_part_and_line(name: str, tmp_path: Path) -> None:
    found = [finding for one in examined(PLANTED[name], tmp_path) for finding in one.findings]
    assert found, name
    assert found[0].name == FINDING_OF[name]
    assert found[0].part in PLANTED[name].parts()
    assert found[0].status == "confirmed"
    assert re.search(rf"\(.*generator_{name}\.py:\d+\)$", found[0].headline), found[0].headline


@pytest.mark.parametrize("name", QUIET)
def test_a_sound_change_is_left_alone(name: str, tmp_path: Path) -> None:
    checked = examined(SOUND[name], tmp_path)
    assert [finding.headline for one in checked for finding in one.findings] == []
    assert all(one.held for one in checked)
    assert [one.contract for one in checked] == list(CONTRACTS)


def test_every_fault_that_a_record_names_is_planted() -> None:
    assert set(FINDING_OF) <= set(PLANTED)


def test_what_a_subject_accepts_is_told_with_its_reason(tmp_path: Path) -> None:
    accepting = replace(
        subject("generator", PLANTED["clip_after_step"], tmp_path),
        accept={"clipped_too_late": "it is only logged"},
    )
    (finding,) = findings_of_loop(accepting)
    assert finding.accepted == "it is only logged"
    assert not finding.fails()


def test_watching_a_loop_leaves_torch_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(7)
    random.seed(7)
    before = torch.ctc_loss, torch.is_grad_enabled(), random.getstate()
    state = torch.random.get_rng_state()
    examined(PLANTED["seeded_each_step"], tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (torch.ctc_loss, torch.is_grad_enabled(), random.getstate()) == before


def offset_for_each_clip(clips: str) -> Change:
    """Features of unit scale, moved by another number for each clip. clips: where they are made."""
    return sound(
        "offset_for_each_clip", (FEATURES, f"    features = [{clips} for clip in clips]\n")
    )


@pytest.mark.parametrize(
    "clips",
    ['clip["features"] + 4.0 * torch.randn(1)', 'clip["features"] + 2.0 * len(clip["features"])'],
    ids=["drawn", "of its own"],
)
def test_an_offset_for_each_clip_is_not_taken_for_a_second_normalisation(
    clips: str, tmp_path: Path
) -> None:
    """Rows of one normalisation differ from their items by one scale and one shift."""
    found = findings_of_loop(subject("generator", offset_for_each_clip(clips), tmp_path))
    assert "normalised_twice" not in [finding.name for finding in found]
    assert not any(finding.fails() for finding in found), found


REPORTED = {
    "scaled": "            yield 100.0 * loss.item()\n",
    "with_a_penalty": "            yield loss.item() + sum(float(p.square().sum()) for p in network.parameters())\n",
    "averaged": "            mean = 0.9 * mean + 0.1 * loss.item()\n            yield mean\n",
}


@pytest.mark.parametrize("name", REPORTED)
def test_a_loss_that_is_reported_otherwise_is_not_accused(name: str, tmp_path: Path) -> None:
    begun = (OPTIMIZER, f"{OPTIMIZER}    mean = 0.0\n")
    change = sound(name, begun, (YIELD, REPORTED[name]))
    assert findings_of_loop(subject("generator", change, tmp_path)) == ()


@pytest.mark.parametrize("given", ["-validate(network, batches)", "1 / validate(network, batches)"])
def test_a_plateau_of_what_rises_is_not_accused(given: str, tmp_path: Path) -> None:
    plateau = "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode='max', patience=1)"
    change = sound(
        "plateau_of_what_rises",
        (EXPONENTIAL, plateau),
        (
            "        scheduler.step()\n        validate(network, batches)\n",
            f"        scheduler.step({given})\n",
        ),
    )
    assert findings_of_loop(subject("generator", change, tmp_path)) == ()


def test_a_second_loss_beside_ctc_is_not_accused(tmp_path: Path) -> None:
    """A penalty in what backward() is called on, and another head's CTC of the same passage."""
    both = "F.ctc_loss(log_probs.flip(2), batch['targets'], steps, batch['target_lengths'])"
    taken = CTC.replace("return", "loss =") + f"    return loss + 0.1 * {both}\n"
    found = findings_of_loop(subject("generator", sound("two_losses", (CTC, taken)), tmp_path))
    assert not any(finding.fails() for finding in found), found
