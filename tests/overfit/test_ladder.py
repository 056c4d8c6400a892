"""Does the model still learn? One case a rung: a fresh network must memorise that many samples."""

import pytest

from pytest_overfit.plugin.cases import OverfitRung

pytestmark = pytest.mark.timeout(3600)


def test_overfits(overfit_rung: OverfitRung) -> None:
    overfit_rung.climb()
