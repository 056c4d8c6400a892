"""From log files to runs: which files belong to a run, which format each has, and a reader for each
format, which hands its rows to `curves.log_builder`.
"""

from pytest_overfit.health.readers.runs import read_run, read_runs

__all__ = ["read_run", "read_runs"]
