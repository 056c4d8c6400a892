"""The rivals' table and what they are given; the rivals themselves are not needed here."""

from __future__ import annotations

import os
import signal
import time
from copy import deepcopy
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from examination.hosts import host_subject, raw
from examination.planted import faults_for
from examination.rivals_given import CLIPS, Given
from examination.rivals_table import markdown
from examination.rivals_trial import HOST, RivalRow, cases, complaints
from examination.rivals_watch import DONE, Begun, Died, Hung, watched
from pytest_overfit import ctc
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import collate
from tests.engine.subjects import bigru


def row(kind: str, name: str, *said: str, unfinished: tuple[str, ...] = ()) -> dict[str, Any]:
    return asdict(
        RivalRow(
            kind=kind,
            network="rival",
            name=name,
            version="1.0",
            complaints=dict.fromkeys(said, "words"),
            unfinished=list(unfinished),
        )
    )


def own(kind: str, name: str, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "network": "bigru", "name": name, "seed": 0, **values}


def test_a_complaint_about_the_healthy_network_counts_for_nothing() -> None:
    text = markdown(
        [
            row("sound", "as it is", "always"),
            row("fault", "a", "always"),
            row("fault", "b", "always", "seldom"),
        ],
        [],
    )
    assert "| rival 1.0 | 1 of 2 | 0 | 0 of 0 |" in text
    assert "| a | - | not tried |" in text
    assert "| b | seldom | not tried |" in text


def test_warnings_are_counted_apart_and_a_check_out_of_time_detects_nothing() -> None:
    rows = [
        row("sound", "as it is"),
        row("sound", "GELU", "odd?"),
        row("fault", "a", "odd?"),
        row("fault", "b", unfinished=("slow",)),
    ]
    text = markdown(rows, [])
    assert "| rival 1.0 | 1 of 2 | 1 | 1 of 1, 1 of them by warnings only |" in text
    assert "| b | (slow: out of time) | not tried |" in text


def test_our_own_column_stands_beside_the_rivals() -> None:
    faults = [
        own("fault", "a", detected=True, found=["time_collapse"], where="contract"),
        own("fault", "b", detected=False, found=[], where=""),
    ]
    sound = [
        own("sound", "bigru, GELU", alarms=["rung 1 is broken"]),
        own("sound", "bigru, as it is", alarms=[]),
        own("sound", "crnn", alarms=["x"]),
    ]
    text = markdown(
        [row("sound", "as it is"), row("sound", "GELU"), row("fault", "a"), row("fault", "b")],
        [*faults, *sound],
    )
    assert "| pytest-overfit | 1 of 2 | 0 | 1 of 1 |" in text
    assert "| a | - | time_collapse (contract) |" in text


def test_many_checks_that_raise_are_told_in_one_word() -> None:
    text = markdown([row("sound", "as it is"), row("fault", "a", "own", "b!", "c!", "d!")], [])
    assert "| a | own, 3 checks! | not tried |" in text


def test_there_is_no_table_without_rows() -> None:
    assert markdown([], []) == ""


def test_what_cannot_be_seen_is_not_counted() -> None:
    assert "| rival 1.0 | 0 of 0 | 0 | 0 of 0 |" in markdown(
        [row("fault", "data-shuffled", "luck")], []
    )


def test_a_rival_sees_the_same_loss_as_the_engine() -> None:
    subject = bigru()
    given = Given(subject, default_recipe(CLIPS))
    network = given.network.eval()
    batch = collate(list(raw(subject, CLIPS)))
    log_probs, steps = subject.log_probs(network.inner, batch.features, batch.frames)
    expected = ctc.nats_per_token(log_probs, steps, batch.targets, batch.target_lengths, blank=0)
    torch.testing.assert_close(given.loss(network(*given.inputs)), expected)


def test_a_copy_of_a_network_keeps_the_fault_and_the_state() -> None:
    fault = next(fault for fault in faults_for(HOST) if fault.name == "net-time-attention")
    network = Given(fault.plant(host_subject(HOST)), default_recipe(CLIPS)).network.eval()
    given = Given(bigru(), default_recipe(CLIPS))
    with torch.no_grad():
        next(network.parameters()).add_(0.5)
        copy = deepcopy(network)
        expected, _ = network(*given.inputs)
        next(network.parameters()).add_(0.5)
        copied, _ = copy(*given.inputs)
    torch.testing.assert_close(copied, expected)


def test_an_optimiser_for_a_copy_trains_the_copy() -> None:
    given = Given(bigru(), default_recipe(CLIPS))
    copies = list(given.fresh().parameters())
    trained = [
        parameter
        for group in given.optimizer_of(copies).param_groups
        for parameter in group["params"]
    ]
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in copies}


def test_what_planted_code_raises_is_told_from_what_a_check_asserts() -> None:
    def raises(error: Exception) -> Any:
        def check(_: Given) -> dict[str, str]:
            raise error

        return check

    assert complaints("check", raises(AssertionError("\nno\nmore")), "sound", "as it is") == {
        "check": "no"
    }
    assert complaints("check", raises(IndexError("label")), "sound", "as it is") == {
        "check!": "IndexError: label"
    }


def steps(report: Connection, skip: int) -> None:
    for name in ("answers", "dies", "hangs", "answers again")[skip:]:
        report.send((name, Begun()))
        if name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "hangs":
            time.sleep(60)
        report.send((name, {}))
    report.send((DONE, None))


def nothing(report: Connection, skip: int) -> None: ...


def test_steps_that_die_or_hang_do_not_stop_the_next() -> None:
    expected = [
        ("answers", {}),
        ("dies", Died(-signal.SIGKILL)),
        ("hangs", Hung()),
        ("answers again", {}),
    ]
    assert list(watched(steps, limit=3)) == expected


def test_a_process_that_ends_between_steps_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended between steps"):
        list(watched(nothing, limit=3))


def test_every_fault_and_every_sound_change_is_shown_once() -> None:
    assert len(set(cases())) == len(cases()) > 90
