"""The report for machines keeps to the schema that is shipped beside it, and the schema refuses
what is no report.
"""

import json
import math
from pathlib import Path

import jsonschema
import pytest

from pytest_overfit.climb.attempt import Ended
from pytest_overfit.plugin import report_json
from tests.engine.sessions import climbed

SCHEMA = json.loads(
    Path(report_json.__file__).with_name("report.schema.json").read_text(encoding="utf-8")
)
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def written(change=lambda outcome: None):
    document = json.loads(report_json.to_json(climbed()))
    change(document["outcomes"][1])
    return document


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_report_with_each_status_keeps_to_it():
    assert {outcome["status"] for outcome in written()["outcomes"]} == {"ok", "broken", "not tried"}
    assert list(CHECK.iter_errors(written())) == []


def test_whatever_may_end_an_attempt_is_in_it():
    described = SCHEMA["$defs"]["attempt"]["properties"]["ended"]["enum"]
    assert set(described) == {*Ended, None}


def test_numbers_that_are_not_finite_keep_to_it():
    rows = climbed()
    rows[1][0].attempts[0].trace.losses[1] = math.inf
    assert list(CHECK.iter_errors(json.loads(report_json.to_json(rows)))) == []


CHANGES = {
    "a status that there is not": lambda outcome: outcome.update(status="fine"),
    "no samples": lambda outcome: outcome.pop("samples"),
    "a field that is not described": lambda outcome: outcome.update(deciding=1),
    "a finding without a name": lambda outcome: outcome["diagnosis"]["findings"][0].pop("name"),
    "a loss in words": lambda outcome: outcome["attempts"][0].update(loss=["low"]),
    "a trial that neither held nor failed": lambda outcome: outcome["diagnosis"]["trials"][
        0
    ].update(held=None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_schema_refuses(change):
    assert list(CHECK.iter_errors(written(change)))
