"""Networks that are not ours climb with the default recipes."""

import pytest

from pytest_overfit import Rung
from pytest_overfit.climb.ladder import criteria_for
from pytest_overfit.recipe import default_recipe
from tests.engine.foreign_subjects import SUBJECTS


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_foreign_network_climbs_with_the_default_recipe(subject, samples):
    outcome = Rung(
        subject=subject,
        samples=samples,
        recipe=default_recipe(samples),
        criteria=criteria_for(samples),
    ).climb()
    tried = [
        (attempt.recipe.lr, attempt.steps, [finding.headline for finding in attempt.findings])
        for attempt in outcome.attempts
    ]
    assert outcome.status == "ok", tried
    assert outcome.steps < default_recipe(samples).budget
