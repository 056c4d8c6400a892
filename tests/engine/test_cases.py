"""Cases: which rung a process climbs next, what it learns from others, and that no failure is
hidden or invented.
"""

import math
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pytest_overfit import Outcome, Recipe, Sample, Subject, errors, parametrize_with_rungs
from pytest_overfit.climb.ladder import BadLadder, Rung
from pytest_overfit.host import denormals_are_flushed, lent, seed_generators
from pytest_overfit.plugin.cases import Case, LadderBroken, OverfitRung
from pytest_overfit.plugin.examinations import Diagnosed, OverfitDiagnosis
from pytest_overfit.plugin.settings import Settings
from pytest_overfit.plugin.store import Store
from tests.engine.subjects import bigru

VOCABULARY = tuple("-ABCD")
QUICK = Settings(changes={"budget": 20, "fallbacks": (), "lr": 0.02}, trials="off")


def clips(count):
    generator = torch.Generator().manual_seed(0)
    return [
        Sample(
            name=f"c{i}",
            features=torch.randn(24, 6, generator=generator),
            target=torch.randint(1, 5, (3,), generator=generator),
        )
        for i in range(count)
    ]


class Frames(nn.Module):
    def __init__(self, feature_dim, vocab_size):
        super().__init__()
        self.head = nn.Linear(feature_dim, vocab_size)

    def forward(self, features, frames):
        return self.head(features).log_softmax(-1).transpose(0, 1), frames


def subject(**changes):
    fields = {"name": "toy", "samples": clips(20), "vocabulary": VOCABULARY}
    return Subject(
        **{
            **fields,
            "build": lambda vocab_size, feature_dim, seed: Frames(feature_dim, vocab_size),
            **changes,
        }
    )


def case(tmp_path, samples, *, selected=(1, 2, 5), of=None, settings=QUICK):
    store = Store(tmp_path)
    return OverfitRung(
        case=Case(of or subject(), samples),
        selected=selected,
        key="key",
        store=store,
        settings=settings,
        rerun="pytest again",
    )


def known(store, *outcomes):
    for samples, status in outcomes:
        store.put(
            "key",
            Outcome(
                subject="toy",
                samples=samples,
                status=status,
                error="known" if status == "broken" else None,
            ),
        )


def test_a_case_is_called_after_its_subject_and_scale():
    assert [str(Case(subject(), samples)) for samples in (1, 10)] == [
        "toy-1 sample",
        "toy-10 samples",
    ]


def test_a_decorator_with_rungs_that_do_not_ascend_is_turned_away():
    with pytest.raises(BadLadder, match="rungs must ascend: 5 comes before 2"):
        parametrize_with_rungs([subject()], rungs=(5, 2))


def test_an_outcome_that_is_known_is_not_climbed_again(tmp_path):
    asked = case(tmp_path, 2, of=subject(build=dict))
    known(asked.store, (1, "ok"), (2, "ok"))
    assert asked.climb().status == "ok"


@pytest.mark.parametrize("samples", [clips(2), lambda n: clips(2)[:n]])
def test_a_rung_above_the_corpus_is_not_climbed_and_breaks_nothing(tmp_path, samples):
    asked = case(tmp_path, 5, of=subject(samples=samples))
    known(asked.store, (1, "ok"), (2, "ok"))
    with pytest.raises(pytest.skip.Exception, match=r"^not climbed: the corpus has 2 clips$"):
        asked.climb()
    assert [(outcome.status, outcome.available) for outcome in asked.known()] == [
        ("ok", None),
        ("ok", None),
        ("not tried", 2),
    ]
    assert asked.store.get("key", 5) == asked.outcome()


def test_a_subject_without_samples_is_no_pass(tmp_path):
    with pytest.raises(LadderBroken, match="it could not be trained: subject toy has no samples"):
        case(tmp_path, 1, of=subject(samples=[])).climb()


def test_a_rung_above_a_broken_one_is_not_tried(tmp_path):
    asked = case(tmp_path, 5, of=subject(build=dict))
    known(asked.store, (1, "ok"), (2, "broken"))
    with pytest.raises(pytest.skip.Exception, match="not tried: broke at 2"):
        asked.climb()
    assert [(outcome.samples, outcome.status) for outcome in asked.known()] == [
        (1, "ok"),
        (2, "broken"),
        (5, "not tried"),
    ]


def test_the_lowest_broken_rung_is_the_one_that_broke(tmp_path):
    asked = case(tmp_path, 10, selected=(1, 2, 5, 10), of=subject(build=dict))
    known(asked.store, (1, "ok"), (2, "broken"), (5, "broken"))
    assert asked.outcome().broke_at == 2


def test_a_rung_that_broke_before_lower_ones_were_tried_waits_for_them(tmp_path):
    asked = case(tmp_path, 5, of=subject(build=lambda **_: 1 / 0))
    known(asked.store, (5, "broken"))
    outcome = asked.outcome()
    assert (outcome.status, outcome.broke_at) == ("not tried", 1)


def test_alone_a_process_climbs_from_the_lowest_rung_up(tmp_path):
    climbed = []

    def build(vocab_size, feature_dim, seed):
        climbed.append([samples for samples in (1, 2, 5) if store.get("key", samples)])
        return Frames(feature_dim, vocab_size)

    asked = case(
        tmp_path,
        1,
        of=subject(build=build),
        settings=replace(QUICK, changes={"budget": 1, "fallbacks": ()}),
    )
    store = asked.store
    asked.outcome()
    assert climbed[0] == []
    assert store.get("key", 1)
    assert not store.get("key", 2)


def test_while_another_is_at_the_lowest_rung_a_process_takes_the_highest(tmp_path):
    asked = case(tmp_path, 2)
    with asked.store.claim("key", 1) as mine:
        assert mine
        assert asked.ladder.climb_one()
    assert [samples for samples in (1, 2, 5) if asked.store.get("key", samples)] == [5]


def test_no_rung_above_a_broken_one_is_taken(tmp_path):
    asked = case(tmp_path, 2, selected=(1, 2, 5, 10))
    known(asked.store, (5, "broken"))
    with asked.store.claim("key", 1), asked.store.claim("key", 2):
        assert not asked.ladder.climb_one()
    assert asked.store.get("key", 10) is None


def test_a_climb_ends_when_a_lower_rung_breaks_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_overfit.plugin.cases.SHOW_SECONDS", 0.0)
    steps = 0

    def forward(network, features, frames):
        nonlocal steps
        if network.training:
            steps += 1
        if steps == 5:
            known(asked.store, (1, "broken"))
        return network(features, frames)

    endless = replace(QUICK, changes={"budget": 3000, "fallbacks": (), "lr": 1e-9})
    asked = case(tmp_path, 5, selected=(1, 5), of=subject(forward=forward), settings=endless)
    with asked.store.claim("key", 1):
        outcome = asked.outcome()
    assert (outcome.status, outcome.broke_at) == ("not tried", 1)
    assert 5 <= steps <= 10
    assert asked.store.get("key", 5) is None


def test_two_processes_climb_a_rung_once(tmp_path):
    built = []

    def build(vocab_size, feature_dim, seed):
        built.append(1)
        return Frames(feature_dim, vocab_size)

    settings = replace(QUICK, changes={"budget": 3, "fallbacks": (), "lr": 1e-9})
    both = [
        case(tmp_path, 1, selected=(1,), of=subject(build=build), settings=settings)
        for _ in range(2)
    ]
    outcomes = []
    threads = [
        threading.Thread(target=lambda one=one: outcomes.append(one.outcome())) for one in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.status for outcome in outcomes] == ["broken", "broken"]
    assert len({outcome.attempts[0].seconds for outcome in outcomes}) == 1


def draws():
    return torch.rand(1).item(), np.random.rand(), random.random()


@pytest.mark.parametrize("flushed", [False, True])
def test_the_process_is_left_as_it_was_found(flushed):
    torch.set_flush_denormal(flushed)
    threads = torch.get_num_threads()
    try:
        with lent(threads=threads + 1):
            assert denormals_are_flushed()
            assert torch.get_num_threads() == threads + 1
        assert denormals_are_flushed() == flushed
        assert torch.get_num_threads() == threads
    finally:
        torch.set_flush_denormal(False)


def test_the_random_states_and_denormals_of_other_tests_are_left_alone(tmp_path):
    def seed():
        torch.manual_seed(123)
        np.random.seed(123)
        random.seed(123)

    seed()
    expected = draws()
    seed()
    case(tmp_path, 1, selected=(1,)).outcome()
    assert draws() == expected
    assert (torch.tensor([1e-39]) * 0.5).item() > 0


def test_what_goes_wrong_in_the_network_is_the_headline_and_where_is_below(tmp_path):
    def forward(network, features, frames):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\n(details)")

    asked = case(tmp_path, 1, selected=(1,), of=subject(forward=forward))
    with pytest.raises(
        LadderBroken,
        match=r"^toy breaks at 1 sample: it could not be trained: RuntimeError: mat1 and mat2 "
        "shapes cannot be multiplied$",
    ):
        asked.climb()
    error = asked.store.get("key", 1).error
    assert f'File "{__file__}"' in error
    assert "pytest_overfit" not in error


def test_what_keeps_a_rung_from_being_trained_is_explained_where_a_contract_tells(tmp_path):
    class Stateful(nn.Module):
        def __init__(self, dim, vocabulary):
            super().__init__()
            self.head, self.state = nn.Linear(dim, vocabulary), torch.zeros(1)

        def forward(self, features, frames):
            out = self.head(features + 20 * self.state)
            self.state = out.std()
            return out.log_softmax(-1).transpose(0, 1), frames

    made = subject(build=lambda vocab_size, feature_dim, seed: Stateful(feature_dim, vocab_size))
    asked = case(tmp_path, 1, selected=(1,), of=made)
    with pytest.raises(LadderBroken, match="the same input, the same seed, and another output"):
        asked.climb()
    assert "keeps the graph of an earlier call" in asked.store.get("key", 1).error


def test_an_error_without_words_is_still_named():
    assert errors.in_words(ValueError()) == "ValueError"


def test_a_diagnosis_that_fails_hides_no_outcome(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("pytest_overfit.plugin.cases.diagnose", fails)
    asked = case(
        tmp_path,
        1,
        selected=(1,),
        settings=replace(QUICK, changes={"lr": 1e-9, "budget": 5, "fallbacks": ()}),
    )
    outcome = asked.outcome()
    assert outcome.status == "broken"
    assert outcome.error is None
    assert outcome.attempts[0].steps == 5


def test_a_break_is_explained_with_a_seed_that_failed(tmp_path, monkeypatch):
    class SomeSeeds(Frames):
        """Learns nothing but its bias where it was built with another seed than 0."""

        def __init__(self, feature_dim, vocab_size, seed):
            super().__init__(feature_dim, vocab_size)
            self.head.weight.requires_grad_(seed == 0)

    asked_with = []
    monkeypatch.setattr(
        "pytest_overfit.explain.diagnosis.run_trials",
        lambda rung, *_, **_kw: asked_with.append(rung.seeds) or (),
    )
    told_by_frame = [Sample(name="c", features=torch.eye(24), target=torch.tensor([1, 1, 2]))]
    build = lambda vocab_size, feature_dim, seed: SomeSeeds(feature_dim, vocab_size, seed)  # noqa: E731
    settings = replace(
        QUICK, seeds=(0, 1, 2), beta=0.01, changes={"budget": 300, "fallbacks": (), "lr": 0.1}
    )
    outcome = case(
        tmp_path,
        1,
        selected=(1,),
        of=subject(build=build, samples=told_by_frame),
        settings=settings,
    ).outcome()
    assert [attempt.held for attempt in outcome.deciding] == [True, False, False]
    assert asked_with == [(1, 2)]


def test_interrupting_a_climb_leaves_no_outcome_and_no_claim(tmp_path):
    def forward(network, features, frames):
        raise KeyboardInterrupt

    asked = case(tmp_path, 1, selected=(1,), of=subject(forward=forward))
    with pytest.raises(KeyboardInterrupt):
        asked.outcome()
    assert asked.store.get("key", 1) is None
    with asked.store.claim("key", 1) as mine:
        assert mine


def test_a_recipe_that_this_network_cannot_be_trained_with_is_one_line(tmp_path):
    asked = case(tmp_path, 1, selected=(1,), settings=Settings(changes={"layer_lr": {"lstm": 0.1}}))
    assert asked.outcome().error == "recipe: layer_lr 'lstm' matches no parameter of toy"


def test_bounds_and_changes_reach_the_rung(tmp_path):
    settings = replace(
        QUICK, bounds={"wer": 0.05}, seeds=(3, 4), changes={"budget": 2, "fallbacks": ()}
    )
    outcome = case(tmp_path, 2, selected=(2,), settings=settings).outcome()
    assert [attempt.seed for attempt in outcome.attempts] == [3, 4]
    assert outcome.attempts[0].recipe == replace(Recipe(), budget=2, fallbacks=())
    assert {verdict.name: verdict.bound for verdict in outcome.attempts[0].verdicts}["WER"] == 0.05
    assert math.isfinite(outcome.seconds)


def test_a_diagnosis_examines_the_contracts_first_and_climbs_nothing_where_one_is_violated(
    monkeypatch,
):
    monkeypatch.setattr(Rung, "climb", lambda *_: pytest.fail("it climbed"))
    faulty = replace(
        bigru(),
        forward=lambda network, features, frames: (
            network(features, frames)[0].exp(),
            network(features, frames)[1],
        ),
    )
    with pytest.raises(Diagnosed, match="unnormalised_output"):
        OverfitDiagnosis(subject=faulty, settings=Settings()).check()


def test_a_diagnosis_of_what_does_not_run_is_no_traceback():
    broken = replace(bigru(), forward=lambda network, features, frames: network.missing)
    with pytest.raises(Diagnosed, match="network_fails"):
        OverfitDiagnosis(subject=broken, settings=Settings()).check()


def test_generators_are_seeded_as_torch_does_and_nothing_is_kept_for_later() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    waiting = len(torch.cuda._queued_calls)
    seed_generators(7)
    assert torch.equal(torch.rand(3), expected)
    assert len(torch.cuda._queued_calls) == waiting
