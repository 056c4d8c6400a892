"""The tests that are collected for `--overfit-script`: what can be said of a script from outside."""

from pytest_overfit.plugin.cases import OverfitRung
from pytest_overfit.plugin.examinations import OverfitContracts


def test_holds_its_contracts(overfit_contracts: OverfitContracts) -> None:
    """What a few steps of the script show."""
    overfit_contracts.check()


def test_overfits(overfit_rung: OverfitRung) -> None:
    """The script's own loop makes its own network memorise the rung's samples."""
    overfit_rung.climb()
