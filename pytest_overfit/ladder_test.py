"""The tests that are collected for `--overfit-subject package.module:attribute` where no test file asks for that subject."""

from pytest_overfit.cases import OverfitContracts, OverfitRung


def test_holds_its_contracts(overfit_contracts: OverfitContracts) -> None:
    """What must hold before any training."""
    overfit_contracts.check()


def test_overfits(overfit_rung: OverfitRung) -> None:
    """A fresh network memorises the rung's samples."""
    overfit_rung.climb()
