"""Remedies: a trial holds only where the rung does and the finding is gone; one that cannot be made
says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from examination.hosts import HOSTS
from examination.planted import faults_for
from pytest_overfit import ctc
from pytest_overfit.climb.attempt import Attempt
from pytest_overfit.climb.criteria import Verdict
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.climb.outcome import Outcome
from pytest_overfit.explain.trials import TrialEnded, left_of, remedies_for, try_remedy
from pytest_overfit.finding import Finding
from pytest_overfit.findings.catalogue import RECORDS
from pytest_overfit.findings.examine import check
from pytest_overfit.findings.remedies import Remedy
from pytest_overfit.findings.training import CAUSE_NOT_LOCATED
from pytest_overfit.network.left_out import HandedOn, LinearInstead
from pytest_overfit.network.network_edits import CannotEdit
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject
from pytest_overfit.training import Trace
from tests.engine.dishonest import DISHONEST, HELD_OUT
from tests.engine.foreign import FOREIGN
from tests.engine.planting import rebuilt
from tests.engine.rare_faults import RARE
from tests.engine.subjects import DIM, BiGRU, bigru, clips

FAULTS = {fault.name: fault for fault in faults_for(HOSTS["bigru"])}


ODD = {fault.name: fault for fault in (*DISHONEST, *HELD_OUT, *RARE)}


def rung_of(subject: Subject, samples: int = 2) -> Rung:
    return Rung(
        subject=subject,
        samples=samples,
        recipe=default_recipe(samples),
        criteria=criteria_for(samples),
    )


def remedy(finding: str, name: str) -> Remedy:
    return next(one for one in RECORDS[finding].remedies if one.name == name)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("ctc-loss-blank", "torch's CTC and the greedy decoder in the place of both, one blank"),
        ("net-detach", "no .detach() and no torch.no_grad in the forward pass"),
        ("data-nan", "those samples left out"),
        ("train-optimizer-misses", "every parameter in the optimiser"),
    ],
)
def test_what_contracts_found_is_mended(fault: str, name: str) -> None:
    subject = FAULTS[fault].plant(bigru())
    (finding,) = check(subject, list(subject.samples)[:2])  # type: ignore[arg-type]
    trial = try_remedy(rung_of(subject), finding, remedy(finding.name, name), seconds=60)
    assert (trial.held, trial.ended) == (True, None)
    assert trial.steps > 0


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("net-shut-residual", "that gate at one"),
        ("data-filled-in-front", "targets without what fills them up"),
        ("net-pooled", "the place of each frame added to its features"),
        ("net-backwards", "each clip's output turned back in time"),
        ("net-turned", "nothing turned round"),
        ("net-reshaped", "axes moved where a view or reshape only renames them"),
        (
            "train-latents-masked",
            "train mode for norms and recurrent layers alone, so that nothing is masked",
        ),
        (
            "grad-silent-clip",
            "no hooks on gradients, no backward functions of its own, and no rounding",
        ),
        (
            "grad-undeclared-rounding",
            "no hooks on gradients, no backward functions of its own, and no rounding",
        ),
        ("head-masked-label", "log_softmax of the last layer's own output"),
        ("ctc-length-weighted", "torch's CTC in the place of the whole loss"),
        (
            "grad-root-of-zero",
            "roots, logarithms and divisors of zero taken of 1e-06, arc cosines so far within 1",
        ),
        (
            "train-layers-skipped",
            "train mode for norms and recurrent layers alone, so that nothing is masked",
        ),
    ],
)
def test_a_remedy_takes_the_finding_away_and_brings_no_other(fault: str, name: str) -> None:
    planted = ODD[fault]
    rung = rung_of(planted.plant(bigru()), 5)
    (finding,) = [
        one for one in check(rung.subject, rung.subject.offered(5)) if one.name == planted.finding
    ]
    mended = remedy(finding.name, name).change(rung, finding).subject
    assert [one.name for one in check(mended, mended.offered(5)) if one.fails()] == []


def test_a_trial_that_leaves_the_finding_does_not_hold() -> None:
    subject = FAULTS["ctc-softmax"].plant(bigru(loss=partial(ctc.nats_per_token, blank=0)))
    (finding,) = check(subject, clips(2))
    trial = try_remedy(
        rung_of(subject),
        finding,
        remedy("unnormalised_output", "torch's CTC in the place of the whole loss"),
        seconds=60,
    )
    assert (trial.held, trial.ended, trial.why) == (
        False,
        TrialEnded.STILL_FOUND,
        "unnormalised_output is still found",
    )


def breaking(seeds: Collection[int]) -> Subject:
    """A BiGRU that gives the same whatever it reads, where it is built from one of these seeds."""
    healthy = bigru()

    def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        network = healthy.build(vocab_size=vocab_size, feature_dim=feature_dim, seed=seed)
        if seed in seeds:
            network.register_forward_hook(lambda _, __, out: (0 * out[0] + out[0].mean(), out[1]))
        return network

    return replace(healthy, build=build)


def rebuilt_from(by: int) -> Remedy:
    """Networks built from another seed: so many further."""

    def change(rung: Rung, _: Finding) -> Rung:
        build = rung.subject.build
        return replace(
            rung,
            subject=replace(
                rung.subject,
                build=lambda vocab_size, feature_dim, seed: build(
                    vocab_size=vocab_size, feature_dim=feature_dim, seed=seed + by
                ),
            ),
        )

    return Remedy(name=f"seeds + {by}", change=change)


@pytest.mark.parametrize(
    ("broken", "tried", "held", "why"),
    [
        ((0,), (0,), False, "with seed 1 the rung holds without it"),
        ((0, 1), (0,), True, None),
        ((0, 1, 11), (0,), False, "with seed 1 the rung breaks all the same"),
        ((0, 1), (0, 1), True, None),
        ((0, 2, 12), (0, 2), False, "with seed 2 the rung breaks all the same"),
    ],
)
def test_a_change_that_holds_by_luck_of_its_draw_mends_nothing(
    broken: tuple[int, ...], tried: tuple[int, ...], held: bool, why: str | None
) -> None:
    """broken: seeds whose networks cannot learn; tried: those that the climb failed with."""
    rung = replace(rung_of(breaking(broken), 1), seeds=tried)
    finding = Finding(name="cause_not_located", headline="")
    trial = try_remedy(rung, finding, rebuilt_from(10), seconds=600)
    assert (trial.held, trial.why) == (held, why)


def test_a_trial_ends_when_its_time_is_over() -> None:
    finding = Finding(name="recipe_diverges", headline="")
    trial = try_remedy(
        rung_of(bigru(), 5),
        finding,
        remedy("recipe_diverges", "learning rate x 0.001"),
        seconds=0.0,
    )
    assert (trial.held, trial.ended, trial.steps) == (False, TrialEnded.OUT_OF_TIME, 1)


def test_frames_fed_several_times_get_no_overtime() -> None:
    rung = rung_of(FAULTS["ctc-hidden-collapse"].plant(bigru()))
    finding = next(f for f in check(rung.subject, clips(2)) if f.name == "time_collapse")
    changed = remedy(
        "time_collapse", "each frame fed several times, in the place of a smaller stride"
    ).change(rung, finding)
    assert (changed.recipe.overtime, changed.recipe.budget) == (0.0, rung.recipe.budget)


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("the default recipe", "the recipe is the default one"),
        ("no weight decay and no label smoothing", "the recipe regularises nothing"),
        ("leave that module out", "the finding names no module"),
        ("those samples left out", "no sample is left, or none is named"),
        (
            "the network called with features and frames, nothing around it",
            "bigru has no forward of its own",
        ),
        ("gradients accumulated over the whole rung", "every step sees the whole rung already"),
        ("learning rate x 0.1", "the climb has tried it"),
        (
            "the blocks left out, where they keep the shape",
            "nothing in bigru to change by this remedy",
        ),
    ],
)
def test_a_remedy_that_does_not_apply_says_why(name: str, ended: str) -> None:
    every = {one.name: one for record in RECORDS.values() for one in record.remedies}
    trial = try_remedy(
        rung_of(bigru()), Finding(name="dead_units", headline=""), every[name], seconds=10
    )
    assert (trial.ended, trial.why) == (TrialEnded.NOT_APPLICABLE, ended)


@pytest.mark.parametrize(
    "name",
    [
        "3 times the budget",
        "gradients accumulated over the whole rung",
        "a tenth of the learning rate below the head",
        "sum for mean, or mean for sum, over the batch",
        "label smoothing 0.05",
    ],
)
def test_a_change_of_the_recipe_leaves_a_healthy_rung_whole(name: str) -> None:
    rung = rung_of(FOREIGN["causal"](), 4)
    rung = replace(rung, recipe=replace(rung.recipe, batch=2))
    every = {one.name: one for one in CAUSE_NOT_LOCATED.remedies}
    finding = Finding(name="cause_not_located", headline="")
    changed = every[name].change(rung, finding)
    assert changed.recipe != rung.recipe
    assert replace(changed, recipe=replace(changed.recipe, fallbacks=())).climb().status == "ok"
    trial = try_remedy(rung, finding, every[name], seconds=60)
    assert (trial.held, trial.ended, trial.why) == (
        False,
        None,
        "with seed 1 the rung holds without it",
    )


def test_a_pool_to_one_number_is_left_out_with_a_reader_as_wide() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.squeeze = nn.Linear(DIM, 48), nn.AdaptiveAvgPool1d(1)
            self.head = nn.Linear(1, 25)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            x = self.head(self.squeeze(self.enter(features)))
            return x.log_softmax(-1).transpose(0, 1), frames

    rung = rung_of(replace(bigru(), build=lambda **_: Pooled()), 2)
    finding = Finding(name="rank_bottleneck", headline="", module="squeeze")
    left_out = remedy(
        "rank_bottleneck", "that module left out, and what reads it as wide as that takes"
    )
    network = left_out.change(rung, finding).subject.fresh(feature_dim=DIM, seed=0)
    head = network.get_submodule("head")
    assert isinstance(head, nn.Linear)
    assert head.in_features == 48
    assert isinstance(network.get_submodule("squeeze"), HandedOn)
    with pytest.raises(CannotEdit, match="names no module that runs"):
        left_out.change(rung, replace(finding, module=None))
    with pytest.raises(CannotEdit, match="no linear layer reads"):
        left_out.change(rung, replace(finding, module="head"))


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, weight_norm], ids=["new", "old"])
def test_a_weight_that_is_made_of_others_starts_as_torch_starts_it(
    norm: Callable[[nn.Module], nn.Module],
) -> None:
    def normed(dim: int, vocabulary: int) -> nn.Module:
        network = BiGRU(dim, vocabulary)
        nn.init.zeros_(network.head.weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old one is deprecated
            network.add_module("head", norm(network.head))
        return network

    rung = rung_of(rebuilt(normed)(bigru()), 1)
    broken = next(one for one in check(rung.subject, rung.subject.take(1)))
    assert (broken.name, broken.module) == ("non_finite_output", "head")
    reset = remedy("non_finite_output", "torch's own initialisation of that module")
    trial = try_remedy(rung, broken, reset, seconds=60)
    assert trial.held, trial.why


@pytest.mark.parametrize(
    ("by", "mends"),
    [(-1, "every label one higher"), (1, "every label one lower"), (0, None)],
    ids=["from the blank on", "up to beyond the vocabulary", "as they should be"],
)
def test_labels_that_are_all_off_by_one_are_moved_back(by: int, mends: str | None) -> None:
    sound = bigru(samples=clips(6))
    labels = sorted({label for sample in sound.samples for label in sample.target.tolist()})
    moved = [
        replace(
            sample,
            target=torch.tensor([labels.index(one) + 1 + by for one in sample.target.tolist()]),
        )
        for sample in sound.samples
    ]
    of = replace(sound, samples=moved, vocabulary=tuple(map(str, range(len(labels) + 1))))
    rung = rung_of(of, 2)
    finding = Finding(name="bad_target", headline="", status="confirmed")
    helps = [
        one.name
        for one in remedies_for(finding)[:2]
        if try_remedy(rung, finding, one, seconds=60).held
    ]
    assert helps == ([mends] if mends else [])


def test_a_linear_layer_stands_in_for_a_module_and_its_like_where_one_has_another_shape() -> None:
    class Deep(nn.Module):
        def __init__(self, *widths: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
            self.head = nn.Linear(widths[-1], 25, bias=False)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            for layer in self.layers:
                features = layer(features)
            return self.head(features).log_softmax(-1).transpose(0, 1), frames

    def standing_in(name: str, module: str, *widths: int) -> list[bool]:
        rung = rung_of(replace(bigru(), build=lambda **_: Deep(*widths)), 2)
        changed = remedy("constant_signal", name).change(
            rung, Finding(name="constant_signal", headline="", module=module)
        )
        network = changed.subject.fresh(feature_dim=DIM, seed=0)
        assert isinstance(network, Deep)
        return [isinstance(layer, LinearInstead) for layer in network.layers]

    one = "a linear layer in the place of that module"
    all_of_them = "linear layers in the place of that module and its like in other blocks"
    assert standing_in(one, "layers.0", DIM, 32, 32) == [True, False]
    assert standing_in(all_of_them, "layers.1", DIM, 32, 32) == [True, True]
    for name, module, widths in (
        (one, "layers.1", (DIM, 32, 32)),
        (all_of_them, "layers.0", (DIM, DIM, DIM)),
    ):
        with pytest.raises(CannotEdit, match="the shape that it is given"):
            standing_in(name, module, *widths)


def attempted(*names: str, held: bool) -> Outcome:
    """A rung whose criteria hold or not, with these findings of its controls."""
    verdict = Verdict(name="WER", value=0.0, bound=0.2, sign="<", held=held)
    attempt = Attempt(
        seed=0,
        recipe=default_recipe(2),
        steps=1,
        seconds=0.0,
        held=held and not names,
        verdicts=(verdict,),
        trace=Trace(),
        findings=tuple(Finding(name=name, headline="", status="confirmed") for name in names),
    )
    return Outcome(
        subject="made",
        samples=2,
        status="ok" if attempt.held else "broken",
        attempts=(attempt,),
    )


@pytest.mark.parametrize(
    ("outcome", "left"),
    [
        (attempted("padding_leak", held=True), "padding_leak"),
        (attempted("input_ignored", held=True), ""),  # such a pass is not honest
        (attempted("padding_leak", held=False), ""),
        (attempted(held=True), ""),
    ],
)
def test_what_is_left_of_a_rung_whose_criteria_hold(outcome: Outcome, left: str) -> None:
    assert left_of(outcome) == left


def test_what_a_changed_network_raises_ends_the_trial() -> None:
    def spoil(rung: Rung, _: Finding) -> Rung:
        return replace(rung, subject=replace(rung.subject, forward=lambda *_: 1 / 0))  # type: ignore[arg-type, return-value]

    trial = try_remedy(
        rung_of(bigru()),
        Finding(name="dead_units", headline=""),
        Remedy(name="spoil", change=spoil),
        seconds=10,
    )
    assert (trial.ended, trial.why) == (TrialEnded.RAISED, "ZeroDivisionError: division by zero")


def test_a_smaller_stride_is_looked_for_until_targets_fit() -> None:
    subject = FAULTS["ctc-hidden-collapse"].plant(bigru())
    finding = next(one for one in check(subject, clips(4)) if one.name == "time_collapse")
    rung = rung_of(subject, 4)
    mended = remedy("time_collapse", "a smaller stride there").change(rung, finding)
    assert "time_collapse" not in [one.name for one in check(mended.subject, clips(4))]


def test_names_are_unlike_and_read_as_one_line() -> None:
    every: dict[str, Any] = {}
    for one in (one for record in RECORDS.values() for one in record.remedies):
        assert every.setdefault(one.name, one) is one or one.name.startswith("learning rate")
        assert "\n" not in one.name
