"""The finding of what a subject accepts and nobody finds any more."""

from __future__ import annotations

from pytest_overfit.findings.record import Record

STALE_ACCEPTANCE = Record(
    name="stale_acceptance",
    stage="tool",
    means=(
        "The subject accepts a finding that no longer occurs, or whose name is spelt wrongly. Left "
        "there, it would hide the next one."
    ),
    detected=(
        "The names in Subject(accept=...) are compared with what contracts find; what only "
        "training can show is left alone."
    ),
    mend="Take it out of Subject(accept=...), or check how it is spelt.",
    no_remedy="nothing is wrong with the rung",
    planted=("accept-nothing",),
    harmless=True,
)
