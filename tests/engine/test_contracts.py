"""Contracts: each planted fault is found, by name and place, and nothing else; healthy subjects and
sound changes are left alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_overfit.findings.catalogue import CONTRACTS
from pytest_overfit.findings.examine import check, examine
from pytest_overfit.findings.running import FAILURES
from pytest_overfit.plugin.findings_text import contracts_body
from pytest_overfit.subject import Sample, Subject
from tests.engine.dishonest import DISHONEST, HELD_OUT
from tests.engine.faults import FAULTS, Fault
from tests.engine.foreign import FOREIGN, TOLD, hear, wav2vec2
from tests.engine.foreign_subjects import melodies
from tests.engine.rare_faults import RARE
from tests.engine.sound import SOUND
from tests.engine.subjects import HEALTHY, VOCABULARY, bigru, clips

OTHERS = [name for name in HEALTHY if name != "bigru"]
PLANTED = [
    fault for fault in (*FAULTS, *DISHONEST, *HELD_OUT, *RARE) if fault.caught_by == "contract"
]
ANYWHERE = [fault for fault in PLANTED if fault.home == "any"]


def raw(subject: Subject, count: int = 10) -> Sequence[Sample]:
    return subject.samples(count) if callable(subject.samples) else subject.samples[:count]


def assert_only(fault: Fault, subject: Subject) -> None:
    """The fault's finding and no other, and none that its contract does not declare."""
    checked = examine(subject, raw(subject))
    findings = [finding for one in checked for finding in one.findings]
    told = [(finding.name, finding.severity) for finding in findings]
    assert told == [(fault.finding, fault.severity)], [finding.headline for finding in findings]
    assert fault.module is None or findings[0].module == fault.module
    (contract,) = (one.contract for one in checked if one.findings)
    assert fault.finding in {record.name for record in (*contract.finds, *FAILURES.values())}


@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.name)
def test_a_fault_is_named_and_located_and_nothing_else_is_reported(fault: Fault) -> None:
    assert_only(fault, fault.plant(bigru()))


@pytest.mark.parametrize(
    ("fault", "other"),
    [(fault, OTHERS[i % len(OTHERS)]) for i, fault in enumerate(ANYWHERE)],
    ids=[f"{fault.name}-{OTHERS[i % len(OTHERS)]}" for i, fault in enumerate(ANYWHERE)],
)
def test_a_fault_is_found_in_other_networks(fault: Fault, other: str) -> None:
    assert_only(fault, fault.plant(HEALTHY[other]()))


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_hold_every_contract(name: str) -> None:
    subject = HEALTHY[name]()
    checked = examine(subject, raw(subject), seed=7)
    assert [one.contract.name for one in checked if not one.held] == ["same loss on the GPU"]
    assert not any(one.findings for one in checked)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_change_raises_no_alarm(name: str) -> None:
    subject = SOUND[name]()
    seed = list(SOUND).index(name)
    assert [finding.headline for finding in check(subject, raw(subject), seed=seed)] == []


@pytest.mark.parametrize("name", FOREIGN)
def test_a_sound_network_of_the_field_raises_no_failure(name: str) -> None:
    subject = FOREIGN[name]()
    found = check(subject, raw(subject), seed=list(FOREIGN).index(name))
    assert [finding.headline for finding in found if finding.fails()] == []
    assert {finding.name for finding in found} == TOLD.get(name, set())


def test_wav2vec2_as_it_is_fine_tuned_raises_no_failure() -> None:
    pytest.importorskip("transformers")
    samples = melodies(4)
    subject = Subject(
        name="wav2vec2",
        build=wav2vec2,
        samples=samples,
        vocabulary=VOCABULARY,
        forward=hear,
        outputs="logits",
        layout="BTV",
    )
    assert {(finding.name, finding.severity) for finding in check(subject, samples)} == {
        ("padding_leak", "warning")
    }


@pytest.mark.parametrize("count", [1, 2, 50])
def test_any_number_of_samples_can_be_examined(count: int) -> None:
    assert check(bigru(), raw(bigru(), count)) == ()


def test_without_a_sample_that_runs_the_network_is_skipped_and_not_held() -> None:
    samples = [replace(sample, target=torch.tensor([], dtype=torch.long)) for sample in clips(3)]
    about = {checked.contract.name: checked for checked in examine(bigru(samples=samples), samples)}
    assert about["readable targets"].findings[0].samples == ("clip-00", "clip-01", "clip-02")
    assert about["real steps"].skipped == "no sample is fit to be run"
    assert not about["real steps"].held


def test_a_bad_sample_does_not_hide_what_is_wrong_with_the_network() -> None:
    by_name = {fault.name: fault for fault in FAULTS}
    subject = by_name["net-detach"].plant(by_name["data-nan"].plant(bigru()))
    assert [finding.name for finding in check(subject, raw(subject))] == [
        "bad_features",
        "detached_branch",
    ]


def test_bad_samples_are_named_with_what_is_wrong() -> None:
    samples = clips(4)
    samples[1] = replace(samples[1], target=torch.tensor([3, 0]))
    samples[2] = replace(samples[2], target=torch.tensor([3, 25, 4]))
    (finding,) = check(bigru(samples=samples), samples)
    assert finding.samples == ("clip-01", "clip-02")
    assert finding.evidence == (
        "clip-01: the blank (0) stands at position 1 of its target",
        "clip-02: label 25 is outside the vocabulary of 25",
    )


def test_features_of_two_widths_are_told_by_name() -> None:
    samples = clips(4)
    samples[2] = replace(samples[2], features=samples[2].features[:, :20])
    (finding,) = check(bigru(samples=samples), samples)
    assert (finding.name, finding.samples) == ("bad_features", ("clip-02",))


def test_the_census_names_each_clip_that_does_not_fit() -> None:
    samples = clips(6)
    samples[4] = replace(samples[4], target=torch.tensor([5] * 20))
    (finding,) = check(bigru(samples=samples), samples)
    assert (finding.name, finding.samples, finding.status) == (
        "time_collapse",
        ("clip-04",),
        "confirmed",
    )
    assert "needs 39" in finding.headline


def test_a_clip_with_fewer_frames_than_its_target_needs_accuses_no_module() -> None:
    samples = clips(6)
    samples[4] = replace(samples[4], features=samples[4].features[:8], target=torch.arange(1, 13))
    (finding,) = check(bigru(samples=samples), samples)
    assert (finding.name, finding.samples, finding.module, finding.status) == (
        "bad_target",
        ("clip-04",),
        None,
        "confirmed",
    )
    assert finding.headline == (
        "1 of 6 targets need more steps than their clips have frames: clip-04 has 8 frames for "
        "12 tokens, which need 12"
    )


def test_a_network_that_raises_is_a_finding() -> None:
    def fail(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("no width left")

    findings = check(replace(bigru(), forward=fail), raw(bigru()))
    assert [finding.headline for finding in findings] == [
        "the network does not run on its own samples: no width left"
    ]
    checked = examine(replace(bigru(), build=fail), raw(bigru()))
    assert [finding.headline for one in checked for finding in one.findings] == [
        "the network cannot be built: no width left"
    ]
    (line,) = re.findall(
        r"(?m)^(?:unexamined| {10}) (\d+ contracts \(.*\))$", contracts_body(checked)
    )
    assert line.endswith("contracts (the network cannot be built)")


def test_examining_leaves_the_random_state_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    check(bigru(), raw(bigru()))
    assert torch.equal(torch.rand(3), expected)


def test_every_contract_says_what_it_holds() -> None:
    assert len({contract.name for contract in CONTRACTS}) == len(CONTRACTS)
    assert all(
        contract.holds and contract.about in ("data", "loss", "decoder", "network")
        for contract in CONTRACTS
    )


@pytest.fixture(scope="module")
def corpus() -> list[Sample]:
    """As many clips as PHOENIX-2014 has to train on, of its lengths, one in ten with more tokens
    than fit at 16x.
    """
    generator = torch.Generator().manual_seed(0)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    return [
        Sample(
            name=f"clip-{i}",
            features=torch.randn(number(60, 300), 24, generator=generator),
            target=torch.randint(1, 25, (number(1, 24),), generator=generator),
        )
        for i in range(5672)
    ]


def test_a_corpus_is_examined_in_seconds(corpus: list[Sample]) -> None:
    began = time.process_time()
    findings = check(bigru(samples=corpus), corpus)
    assert time.process_time() - began < 10  # 1.3 s on an idle core
    assert [finding.name for finding in findings] == []


def test_the_census_of_a_corpus_is_exact(
    corpus: list[Sample], strided: Callable[[int], Subject]
) -> None:
    subject = replace(strided(16), samples=corpus)
    collapse = next(
        finding for finding in check(subject, corpus) if finding.name == "time_collapse"
    )
    needed = {s.name: len(s.target) + int((s.target[1:] == s.target[:-1]).sum()) for s in corpus}
    assert set(collapse.samples) == {
        s.name for s in corpus if (s.frames - 1) // 16 + 1 < needed[s.name]
    }


@pytest.fixture(scope="module")
def strided() -> Callable[[int], Subject]:
    from tests.engine.faults import strided as plant

    return lambda stride: plant(stride)(bigru())


def test_what_follows_from_a_finding_is_skipped_and_said_so(
    strided: Callable[[int], Subject],
) -> None:
    about = {checked.contract.name: checked for checked in examine(strided(9), clips(10))}
    assert [finding.name for finding in about["feasible targets"].findings] == ["time_collapse"]
    assert about["whole wiring"].skipped == "skipped_frames follows from what was found elsewhere"


def test_a_faulty_loss_does_not_hide_a_faulty_network() -> None:
    by_name = {fault.name: fault.plant for fault in FAULTS}
    subject = by_name["ctc-loss-lengths-max"](by_name["ctc-part-infeasible"](bigru()))
    assert [finding.name for finding in check(subject, raw(subject))] == [
        "wrong_steps",
        "time_collapse",
    ]
