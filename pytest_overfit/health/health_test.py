"""The tests that `--overfit-run DIR_OR_FILE` adds to a session: one case a rule, and the checkpoint
beside the log.
"""

import pytest

from pytest_overfit.health.cases import OverfitHealth
from pytest_overfit.health.rules import RULES

pytestmark = pytest.mark.health


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_health(overfit_health: OverfitHealth, rule: str) -> None:
    """The run is free of what this rule looks for."""
    overfit_health.check(rule)


def test_checkpoint(overfit_health: OverfitHealth) -> None:
    """The network of the newest checkpoint is sound on real samples."""
    overfit_health.check_checkpoint()
