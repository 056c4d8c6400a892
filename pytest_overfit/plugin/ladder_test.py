"""The tests that are collected for `--overfit-subject package.module:attribute` where no test file
asks for that subject.
"""

from pytest_overfit.plugin.cases import OverfitRung
from pytest_overfit.plugin.examinations import OverfitContracts, OverfitDiagnosis


def test_holds_its_contracts(overfit_contracts: OverfitContracts) -> None:
    """What must hold before any training."""
    overfit_contracts.check()


def test_overfits(overfit_rung: OverfitRung) -> None:
    """A fresh network memorises the rung's samples."""
    overfit_rung.climb()


def test_is_not_accused(overfit_diagnosis: OverfitDiagnosis) -> None:
    """Every diagnosis looks at the network, whether it climbs or not."""
    overfit_diagnosis.check()
