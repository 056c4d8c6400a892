"""Where users import the adapter from: `from pytest_overfit.huggingface import subject_of`."""

from pytest_overfit.loop.huggingface import subject_of as subject_of
