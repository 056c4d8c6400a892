"""The many names of logs are understood, and those that mean something else are left alone."""

from __future__ import annotations

import pytest

from pytest_overfit.health.curves.metric_names import canonical, clock, known


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        *(
            (name, "train_loss")
            for name in (
                "train_loss",
                "train/loss",
                "loss/train",
                "training_loss",
                "Train Loss",
                "trainLoss",
                "epoch_loss/train",
                "train_joint_loss",
            )
        ),
        *(
            (name, "val_loss")
            for name in (
                "val_loss",
                "valid_loss_ce",
                "eval_loss",
                "valid_loss",
                "validation loss",
                "dev_loss",
                "Loss/Validation",
                "val_loss/dataloader_idx_0",
                "corpus_val.val_loss",
                "vl_loss",
            )
        ),
        *(
            (name, "val_wer")
            for name in (
                "val_wer",
                "eval_wer",
                "wer/val",
                "Val WER",
                "valid_word_error_rate",
                "slt/val_wer",
                "val_wer (%)",
            )
        ),
        *(
            (name, "lr")
            for name in (
                "lr",
                "LR",
                "learning_rate",
                "lr-Adam",
                "lr-AdamW/pg1",
                "train/learning_rate",
                "lr_group_0",
            )
        ),
        *(
            (name, "grad_norm")
            for name in ("grad_norm", "gradient_norm", "train/grad_norm", "grad_2.0_norm_total")
        ),
        *(
            (name, "val_blank_share")
            for name in ("val_blank_share", "val/blank_ratio", "blank rate (val)")
        ),
        ("val_emission_ratio", "val_emission_ratio"),
        ("train_entropy_ratio", "train_entropy_ratio"),
        *((name, "val_rouge1") for name in ("eval_rouge1", "val/rouge-1", "Rouge1 (val)")),
        *((name, "val_rougel") for name in ("eval_rougeL", "eval_rougeLsum", "val ROUGE-L")),
        ("eval_rouge2", "val_rouge2"),
        *(
            (name, "val_accuracy")
            for name in (
                "val_masked_acc",
                "val_sparse_categorical_accuracy",
                "val_exact_match",
                "val_wacc",
                "val_top1",
            )
        ),
        *((name, "val_char_accuracy") for name in ("val norm_ED", "val norm_edit_dis", "val_crr")),
        ("train_masked_loss", "train_loss"),
        ("val_ce_loss_token", "val_loss"),
        ("PhonemeErrorRate/Evaluation", "val_per"),
        ("val_chrF", "val_chrf"),
        *((name, "val_wer") for name in ("val_wer_norm", "eval/normalized_wer", "val_wer")),
    ],
)
def test_a_name_of_many_is_canonical(name: str, meaning: str) -> None:
    found = known(name)
    assert found is not None
    assert canonical(found.metric, found.split) == meaning


def test_the_width_of_a_beam_changes_nothing_of_what_is_measured() -> None:
    meaning = known("valid_bleu_beam1")
    assert meaning is not None
    assert (meaning.metric, meaning.split) == ("bleu", "val")
    nested = known("val_buckets/short/bleu")
    assert nested is not None
    assert meaning.rank < nested.rank


@pytest.mark.parametrize(
    "name",
    [
        "test_loss",
        "test/loss",
        "best_val_loss",
        "val_loss_std",
        "train_eval_loss",
        "lr-Adam-momentum",
        "lr_scale",
        "gap",
        "chars per token",
        "val_norm_edit_distance",  # of some trainers a share, of others one minus it
        "entropy",
        "flower",
    ],
)
def test_a_name_of_something_else_is_not(name: str) -> None:
    assert known(name) is None


def test_a_name_tells_its_level_and_unit() -> None:
    meanings = [
        known(name) for name in ("train_loss_step", "train_loss_epoch", "train_loss", "val_wer_pct")
    ]
    assert [(one.level, one.percent) for one in meanings if one] == [
        ("step", False),
        ("epoch", False),
        ("", False),
        ("", True),
    ]


def test_a_negative_log_likelihood_is_a_loss_and_a_log_likelihood_one_upside_down() -> None:
    negated = [known(name) for name in ("val_negative_log_likelihood", "val_log_likelihood")]
    assert [one.negated for one in negated if one] == [False, True]


def test_what_counts() -> None:
    assert {clock(name) for name in ("epoch", "Epoch", "train/epoch", "current_epoch")} == {"epoch"}
    assert {
        clock(name)
        for name in (
            "step",
            "global_step",
            "trainer/global_step",
            "iteration",
            "_step",
            "num_updates",
        )
    } == {"step"}
    assert {clock(name) for name in ("epochs", "epoch_time", "step_ms", "loss", "epoch 1")} == {
        None
    }
