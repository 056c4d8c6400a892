"""Rung 0: what must hold of each subject before any training."""

from pytest_overfit.cases import OverfitContracts


def test_holds_its_contracts(overfit_contracts: OverfitContracts) -> None:
    overfit_contracts.check()
