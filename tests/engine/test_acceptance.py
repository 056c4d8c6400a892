"""What fails nothing: warnings, and findings that a subject accepts with a reason; what is accepted
in vain is told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor, nn

from pytest_overfit import Rung
from pytest_overfit.climb.ladder import criteria_for
from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.examine import check, examine, stale_acceptances
from pytest_overfit.plugin import findings_text
from pytest_overfit.plugin.examinations import ContractViolated, OverfitContracts
from pytest_overfit.plugin.settings import Settings
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import BadSubject, Subject
from tests.engine.faults import FAULTS
from tests.engine.subjects import bigru, clips

FEW = 4
BY_NAME = {fault.name: fault.plant for fault in FAULTS}
REASON = "the second half of a clip is a mirror of the first"


def faulty(fault: str, **changes: Any) -> Subject:
    return replace(BY_NAME[fault](bigru(samples=clips(FEW))), **changes)


def examined(subject: Subject, **settings: Any) -> OverfitContracts:
    return OverfitContracts(subject=subject, settings=Settings(rungs=(FEW,), **settings))


def test_a_warning_fails_only_where_strictness_is_asked_for() -> None:
    warning = Finding(name="skipped_frames", headline="", severity="warning")
    failure = Finding(name="batch_leak", headline="")
    assert [
        warning.fails(),
        warning.fails(strict=True),
        failure.fails(),
        failure.fails(strict=True),
    ] == [False, True, True, True]


def test_what_is_accepted_fails_nothing_however_strict() -> None:
    found = [Finding(name="batch_leak", headline=""), Finding(name="padding_leak", headline="")]
    accepted, other = accepting(found, {"batch_leak": REASON})
    assert (accepted.accepted, other.accepted) == (REASON, None)
    assert [accepted.fails(strict=True), other.fails()] == [False, True]


def test_contracts_pass_with_a_warning_and_tell_it() -> None:
    contracts = examined(faulty("net-auxiliary-head"))
    contracts.check()
    assert [(note.name, note.module) for note in contracts.notes] == [("unused_module", "second")]
    assert "warning    unused_module (confirmed)" in contracts.body


def test_strict_contracts_fail_on_a_warning() -> None:
    with pytest.raises(ContractViolated, match="unused_module: second is trained and never used"):
        examined(faulty("net-auxiliary-head"), strict=True).check()


def test_contracts_pass_with_what_is_accepted_and_show_why(snapshot: Any) -> None:
    contracts = examined(faulty("net-frames-cut", accept={"skipped_frames": REASON}), strict=True)
    contracts.check()
    (note,) = contracts.notes
    assert (note.name, note.severity, note.accepted) == ("skipped_frames", "failure", REASON)
    assert contracts.body.partition("\nheld")[0] == snapshot
    assert findings_text.note_line("toy", note) == snapshot


def test_what_is_accepted_and_no_longer_found_is_told(snapshot: Any) -> None:
    contracts = examined(
        bigru(samples=clips(FEW), accept={"padding_leak": "by design", "paddng_leak": "misspelt"})
    )
    contracts.check()
    (stale,) = contracts.notes
    assert (stale.name, stale.severity) == ("stale_acceptance", "warning")
    assert findings_text.findings_body([stale]) == snapshot
    with pytest.raises(ContractViolated):
        examined(contracts.subject, strict=True).check()


def test_what_was_not_examined_is_not_called_stale() -> None:
    contracts = examined(bigru(samples=clips(FEW), accept={"device_mismatch": "a known bug"}))
    contracts.check()
    assert contracts.notes == ()
    assert "; not examined: same loss on the GPU (" in contracts.line


@pytest.mark.parametrize("elsewhere", ["train_eval_gap", "signal_drowned"])
def test_what_training_may_show_is_not_called_stale(elsewhere: str) -> None:
    contracts = examined(bigru(samples=clips(FEW), accept={elsewhere: "known"}))
    contracts.check()
    assert contracts.notes == ()


def test_nothing_is_called_stale_where_a_contract_could_not_look() -> None:
    def fail(*_: object) -> tuple[Tensor, Tensor]:
        raise ZeroDivisionError("no width left")

    subject = bigru(samples=clips(FEW), forward=fail, accept={"padding_leak": "by design"})
    assert stale_acceptances(subject, examine(subject, clips(FEW))) == ()


def test_an_accepted_finding_of_lengths_does_not_keep_a_rung_from_training() -> None:
    subject = faulty("ctc-part-infeasible", accept={"time_collapse": "two long sentences, known"})
    rung = Rung(
        subject=subject,
        samples=FEW,
        recipe=Recipe(budget=3, fallbacks=()),
        criteria=criteria_for(FEW),
    )
    assert replace(rung, subject=faulty("ctc-part-infeasible")).climb().attempts == ()
    outcome = rung.climb()
    assert (outcome.findings, len(outcome.attempts)) == ((), 1)


@pytest.mark.parametrize(
    ("accept", "words"),
    [
        (["padding_leak"], r"subject bigru: accept must map findings to reasons, got list"),
        (
            {"padding_leak": ""},
            r"subject bigru: accept\['padding_leak'\] needs a reason in words, got ''",
        ),
        (
            {"padding_leak": True},
            r"subject bigru: accept\['padding_leak'\] needs a reason in words, got True",
        ),
    ],
)
def test_an_acceptance_needs_a_reason(accept: Any, words: str) -> None:
    with pytest.raises(BadSubject, match=words):
        bigru(accept=accept)


def test_a_modality_that_is_lost_is_no_warning() -> None:
    (finding,) = check(faulty("net-modality"), clips(FEW))
    assert (finding.name, finding.severity) == ("unused_module", "failure")


def test_what_is_multiplied_by_zero_is_no_auxiliary_head() -> None:
    class Muted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(24, 25), nn.Linear(24, 25)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return (self.first(features) + 0.0 * self.second(features)).log_softmax(-1), frames

    subject = replace(bigru(samples=clips(FEW)), build=lambda **_: Muted(), layout="BTV")
    finding, *others = check(subject, clips(FEW))
    assert (finding.name, finding.module, finding.severity) == (
        "unused_module",
        "second",
        "failure",
    )
    assert [other.name for other in others] == ["order_blind"]
