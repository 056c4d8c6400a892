"""Rung 0: what must hold of each subject before any training."""

import pytest

from pytest_overfit.plugin.examinations import OverfitContracts

pytestmark = pytest.mark.timeout(3600)


def test_holds_its_contracts(overfit_contracts: OverfitContracts) -> None:
    overfit_contracts.check()
