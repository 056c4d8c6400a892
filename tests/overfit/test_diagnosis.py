"""On a subject that climbs, no diagnosis has anything to say."""

from pytest_overfit.cases import OverfitDiagnosis


def test_is_not_accused(overfit_diagnosis: OverfitDiagnosis) -> None:
    overfit_diagnosis.check()
