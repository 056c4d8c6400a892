"""The test that is collected for `--overfit-subject package.module:attribute` where no test file asks for that subject."""

import pytest


@pytest.mark.overfit
def test_overfits(overfit_rung):  # type: ignore[no-untyped-def]
    """A fresh network memorises the rung's samples."""
    overfit_rung.climb()
