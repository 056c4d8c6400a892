"""Does the model still learn? One case a rung: a fresh network must memorise that many samples."""

from pytest_overfit.cases import OverfitRung


def test_overfits(overfit_rung: OverfitRung) -> None:
    overfit_rung.climb()
