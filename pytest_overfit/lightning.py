"""Where users import the adapter from: `from pytest_overfit.lightning import subject_of`."""

from pytest_overfit.loop.lightning import subject_of as subject_of
