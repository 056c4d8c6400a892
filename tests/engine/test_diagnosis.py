"""Diagnoses: each names its planted fault at its module and is silent on sound subjects; trials are
ordered, bounded, and alone confirm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examination.hosts import HOSTS
from examination.planted import faults_for
from examination.sound.catalogue import SOUND as FIELD
from pytest_overfit import ctc
from pytest_overfit.climb.ladder import Outcome, Rung, criteria_for
from pytest_overfit.explain.diagnosis import diagnose, examine_rung, ranked, seen_by_more_clips
from pytest_overfit.explain.trials import Trial, TrialEnded
from pytest_overfit.finding import Finding
from pytest_overfit.findings.bounds import furthest, least_loss
from pytest_overfit.findings.examine import examine
from pytest_overfit.recipe import Recipe, default_recipe
from pytest_overfit.subject import Subject
from tests.engine.planting import altered, rebuilt
from tests.engine.sound import SOUND
from tests.engine.subjects import HEALTHY, BiGRU, Upsampler, bigru, subject

FAULTS = {fault.name: fault for fault in faults_for(HOSTS["bigru"])}


def rung_of(subject: Subject, samples: int = 5, recipe: Recipe | None = None) -> Rung:
    return Rung(
        subject=subject,
        samples=samples,
        recipe=recipe or default_recipe(samples),
        criteria=criteria_for(samples),
    )


def untrained(rung: Rung, status: Any = "ok") -> Outcome:
    return Outcome(subject=rung.subject.name, samples=rung.samples, status=status)


@cache
def seen(fault: str) -> tuple[Finding, ...]:
    """What probes of a fresh network show."""
    rung = rung_of(FAULTS[fault].plant(bigru()))
    return examine_rung(rung, untrained(rung))


@cache
def trained(fault: str, samples: int = 2, budget: int = 60) -> tuple[Rung, Outcome]:
    recipe = replace(FAULTS[fault].recipe(default_recipe(samples)), budget=budget, fallbacks=())
    rung = rung_of(FAULTS[fault].plant(bigru()), samples, recipe)
    return rung, rung.climb()


SIGNALS = [
    "net-dead-relu",
    "net-init-zero",
    "net-depthwise-init",
    "net-time-attention",
    "net-capacity",
    "net-vanish",
    "net-dropout",
    "head-cosine",
]
RECIPES = ["train-lr-low", "train-reg", "train-reg-adamw", "train-smoothing"]


@pytest.mark.parametrize("fault", SIGNALS)
def test_a_fault_in_the_network_is_named_first_and_at_its_module(fault: str) -> None:
    planted = FAULTS[fault]
    first = seen(fault)[0]
    assert first.name == planted.finding
    assert ((first.module or "") + ".").startswith(f"{planted.module}.")
    assert first.status == "suspected"


def test_a_bound_below_which_ctc_cannot_fall_holds_of_any_output() -> None:
    logits = torch.rand(1000, 20, 1, 8, generator=torch.Generator().manual_seed(0))  # within 1
    target = torch.tensor([[3, 5, 3]])
    for one in logits:
        nats = ctc.nats_per_token(
            one.log_softmax(-1), torch.tensor([20]), target, torch.tensor([3]), blank=0
        )
        assert float(nats) > least_loss(1.0, 20, [3, 5, 3], 8) > 1


def test_logits_that_recurrent_layers_alone_bound_are_far_enough_apart() -> None:
    """Cosines times the length of what an LSTM gives: random weights leave them within 3 nats."""
    subject = FIELD["visual alignment"].make()
    clip = subject.take(1)[0]
    network = subject.fresh(feature_dim=clip.features.shape[1], seed=0)
    reach, steps, _ = furthest(subject, network, clip)
    assert least_loss(reach, steps, clip.target.tolist(), len(subject.vocabulary)) < 0.001


@pytest.mark.parametrize("fault", SIGNALS)
def test_what_follows_from_a_finding_is_not_told(fault: str) -> None:
    assert len(seen(fault)) == 1


@pytest.mark.parametrize("fault", RECIPES)
def test_a_fault_in_the_recipe_is_named_and_put_on_no_module(fault: str) -> None:
    rung, outcome = trained(fault)
    assert outcome.status == "broken"
    first = examine_rung(rung, outcome)[0]
    assert (first.name, first.module) == (FAULTS[fault].finding, None)


def test_a_learning_rate_far_too_high_is_named() -> None:
    """At this one the weights overflow in the first steps, on any machine; at 300 a run may come to
    rest.
    """
    recipe = replace(
        default_recipe(5), optimizer="sgd", clip=None, lr=1e36, budget=40, fallbacks=()
    )
    rung = rung_of(bigru(), 5, recipe)
    assert "recipe_diverges" in [finding.name for finding in examine_rung(rung, rung.climb())]


@pytest.mark.parametrize("fault", [*SIGNALS, *RECIPES])
def test_the_text_of_a_finding(fault: str, snapshot: Any) -> None:
    found = examine_rung(*trained(fault)) if fault in RECIPES else seen(fault)
    lines = [found[0].headline, *found[0].evidence, f"try: {found[0].try_}"]
    text = re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", "\n".join(lines))
    assert text == snapshot


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_are_left_alone(name: str) -> None:
    rung = rung_of(HEALTHY[name]())
    assert examine_rung(rung, untrained(rung)) == ()


@pytest.mark.parametrize("name", SOUND)
def test_sound_changes_are_left_alone(name: str) -> None:
    rung = replace(rung_of(SOUND[name]()), seeds=(list(SOUND).index(name),))
    assert examine_rung(rung, untrained(rung)) == ()


def test_a_climb_that_held_shows_nothing_however_uneven_its_loss() -> None:
    rung = rung_of(bigru(), 2)
    outcome = rung.climb()
    assert examine_rung(rung, outcome) == ()
    held = outcome.attempts[0]
    rose = replace(held, trace=replace(held.trace, losses=[9.0] * 20 + [0.1] * 20 + [9.0] * 20))
    assert examine_rung(rung, replace(outcome, attempts=(rose,))) == ()
    failed = replace(outcome, status="broken", attempts=(replace(rose, held=False),))
    assert [finding.name for finding in examine_rung(rung, failed)] == ["recipe_diverges"]
    at_another_rate = replace(failed, status="ok")
    assert examine_rung(rung, at_another_rate) == ()
    uneven = replace(held.trace, losses=[9.0] * 20 + [0.1] * 20 + [9.0, 9.0, 0.05] * 10)
    noisy = replace(rose, held=False, trace=uneven)
    assert examine_rung(rung, replace(failed, attempts=(noisy,))) == ()


def test_a_remedy_that_holds_confirms_its_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_overfit.explain.trials.LEAST_SECONDS", 600.0)  # busy or not
    rung, outcome = trained("train-lr-low")
    diagnosis = diagnose(replace(rung, recipe=replace(rung.recipe, budget=400)), outcome)
    assert diagnosis.confirmed is not None
    assert diagnosis.confirmed.remedy == "learning rate x 100"
    assert (diagnosis.findings[0].name, diagnosis.findings[0].status) == (
        "recipe_stalls",
        "confirmed",
    )
    assert "dead_units" in diagnosis.ruled_out
    assert [row.module for row in diagnosis.table][-1] == "head"


def test_contracts_are_examined_once_for_a_climb_and_its_explanation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []

    def counted(*given: Any, seed: int, **more: Any) -> Any:
        seeds.append(seed)
        return examine(*given, seed=seed, **more)

    monkeypatch.setattr("pytest_overfit.climb.ladder.examine", counted)
    rung = rung_of(FAULTS["ctc-no-collapse"].plant(bigru()), 1)
    outcome = rung.climb()
    assert outcome.status == "broken"
    assert diagnose(rung, outcome, trials="off").findings[0].name == "decoder_repeats"
    assert seeds == [0]


def test_without_trials_nothing_is_confirmed() -> None:
    rung, outcome = trained("train-reg")
    diagnosis = diagnose(rung, outcome, trials="off")
    assert diagnosis.trials == ()
    assert {finding.status for finding in diagnosis.findings} == {"suspected"}


def finding(name: str) -> Finding:
    return Finding(name=name, headline=name)


def test_a_cured_finding_goes_first() -> None:
    trial = Trial(
        finding="recipe_stalls", remedy="learning rate x 100", held=True, steps=30, seconds=1.0
    )
    first, second = ranked([finding("signal_drowned"), finding("recipe_stalls")], [trial])
    assert (first.name, first.status, second.status) == ("recipe_stalls", "confirmed", "suspected")


def tried(remedy: str, *, held: bool = False, ended: TrialEnded | None = None) -> Trial:
    return Trial(
        finding="bad", remedy=remedy, held=held, steps=30, seconds=1.0, ended=ended, why=None
    )


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ((), "less stride"),
        ((tried("stride 1", ended=TrialEnded.OUT_OF_TIME),), "less stride"),
        ((tried("stride 1", held=True),), "stride 1, with which the rung holds: less stride"),
        ((tried("fan_in"), tried("xavier", held=True)), "xavier, with which the rung holds"),
        (
            (tried("fan_in"), tried("xavier"), tried("odd", ended=TrialEnded.NOT_APPLICABLE)),
            "not known: by itself none of these mends the rung: fan_in; xavier",
        ),
    ],
)
def test_nothing_is_advised_that_a_trial_refuted(trials: tuple[Trial, ...], words: str) -> None:
    (judged,) = ranked([replace(finding("bad"), try_="less stride")], trials)
    assert judged.try_ == words


def scaled(factor: float, modules: Sequence[str]) -> Callable[[nn.Module], None]:
    def alter(network: nn.Module) -> None:
        for name in modules:
            for parameter in network.get_submodule(name).parameters():
                parameter.mul_(factor)

    return alter


class Excited(nn.Module):
    """Gives how much each channel counts, and not the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(self.down(x.mean(1, keepdim=True)).relu())).expand_as(x)


def test_one_number_for_all_steps_is_not_called_a_drowned_signal() -> None:
    class Net(nn.Module):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__()
            self.lift, self.squeeze = nn.Linear(dim, 32), Excited(32)
            self.head = nn.Linear(32, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            output = self.head(self.squeeze(self.lift(features))).log_softmax(-1)
            return output.transpose(0, 1), frames

    rung = rung_of(subject(Net, "excited"))
    found = examine_rung(rung, untrained(rung))
    assert [(one.name, one.module) for one in found] == [("constant_signal", "squeeze")]


def test_the_earliest_of_two_places_is_blamed() -> None:
    rung = rung_of(altered(subject(Upsampler, "upsampler"), scaled(0.0, ["up", "down.1.conv"])))
    found = examine_rung(rung, untrained(rung))
    assert [(one.name, one.module) for one in found] == [("constant_signal", "down.1.conv")]


def test_a_diagnosis_of_a_network_that_does_not_run_is_its_contracts() -> None:
    def fail(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("no width left")

    rung = rung_of(replace(bigru(), forward=partial(fail)))
    diagnosis = diagnose(rung, untrained(rung, "broken"), trials="off")
    assert (
        diagnosis.findings[0].headline
        == "the network does not run on its own samples: no width left"
    )
    assert diagnosis.table == ()


def test_what_the_subjects_loss_raises_is_told_once_and_as_its_own() -> None:
    def fail(*_: object) -> torch.Tensor:
        raise LookupError("no such label")

    rung = rung_of(bigru(loss=fail))
    diagnosis = diagnose(rung, untrained(rung, "broken"), trials="off")
    assert [(one.name, one.headline) for one in diagnosis.findings] == [
        ("loss_fails", "`own loss` cannot be examined: no such label")
    ]
    assert diagnosis.failure is None
    assert "regulariser_dominates" not in diagnosis.ruled_out


def test_an_error_of_a_diagnosis_is_told_as_this_tools_own_beside_what_others_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_overfit.findings.training.crawls", None)
    rung, outcome = trained("train-lr-low")
    diagnosis = diagnose(rung, outcome, trials="off")
    assert diagnosis.failure is not None
    assert diagnosis.failure.startswith(
        "pytest-overfit itself failed, looking for recipe_stalls: TypeError: "
    )
    assert "training.py" in diagnosis.failure
    assert "tool_fails" not in {finding.name for finding in diagnosis.findings}
    assert "dead_units" in diagnosis.ruled_out


class Across(nn.Module):
    """A recurrent layer that takes the clips of a batch for its steps."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(dim, 24)
        self.head = nn.Linear(24, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.rnn(features)[0]).log_softmax(-1).transpose(0, 1), frames


def test_of_one_clip_contracts_are_asked_with_more() -> None:
    rung = rung_of(rebuilt(Across)(bigru()), 1)
    assert not [f for one in rung.checked for f in one.findings if f.name == "batch_leak"]
    (finding,) = seen_by_more_clips(rung, ())
    assert (finding.name, finding.module) == ("batch_leak", "rnn")
    assert seen_by_more_clips(rung, (finding,)) == ()
    assert seen_by_more_clips(rung_of(bigru(), 1), ()) == ()


def test_a_warning_is_no_cause() -> None:
    warning = Finding(
        name="input_ignored", headline="one column", status="confirmed", severity="warning"
    )
    suspected = Finding(name="bounded_output", headline="logits within 2")
    assert ranked([warning, suspected], ()) == (suspected, warning)


def test_logits_that_share_a_norm_are_bounded_though_one_step_may_be_sure() -> None:
    class Normed(BiGRU):
        """Logits of variance one, over all steps and tokens."""

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            logits, steps = super().forward(features, frames)
            scaled = logits - logits.mean((0, 2), keepdim=True)
            return (scaled / (scaled.std((0, 2), keepdim=True) + 1e-5)).log_softmax(-1), steps

    def bounded(network: type[nn.Module]) -> list[str]:
        rung = rung_of(rebuilt(network)(bigru()), 1)
        return [f.name for f in examine_rung(rung, untrained(rung, "broken"))]

    assert "bounded_output" in bounded(Normed)
    assert "bounded_output" not in bounded(BiGRU)


def test_what_needs_no_look_at_modules_is_found_without_one(monkeypatch: Any) -> None:
    def raising(*_: Any, **__: Any) -> Any:
        return torch.zeros(2)[3]

    rung = rung_of(FAULTS["head-cosine"].plant(bigru()), 1)
    monkeypatch.setattr("pytest_overfit.explain.evidence.observe", raising)
    monkeypatch.setattr("pytest_overfit.errors.is_ours", lambda _: False)
    found = diagnose(rung, untrained(rung, "broken"), trials="off").findings
    assert "bounded_output" in [finding.name for finding in found]
