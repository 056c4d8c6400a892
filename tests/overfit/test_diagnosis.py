"""On a subject that climbs, no diagnosis has anything to say."""

import pytest

from pytest_overfit.plugin.examinations import OverfitDiagnosis

pytestmark = pytest.mark.timeout(3600)


def test_is_not_accused(overfit_diagnosis: OverfitDiagnosis) -> None:
    overfit_diagnosis.check()
