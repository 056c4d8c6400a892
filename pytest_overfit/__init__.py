"""Tell, before a merge, whether a CTC network can still learn, and if not, at which scale it
breaks.

The names here are the public ones. They are imported on first use: the pytest plugin lives in this
package and must not import torch for projects that do not use it. `HealthCallback` needs Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Outcome as Outcome
    from pytest_overfit.climb.ladder import Rung as Rung
    from pytest_overfit.finding import Finding as Finding
    from pytest_overfit.health.checkup import check_up as check_up
    from pytest_overfit.health.lightning import HealthCallback as HealthCallback
    from pytest_overfit.health.readers import read_run as read_run
    from pytest_overfit.health.watch import Watch as Watch
    from pytest_overfit.loop.loop import Loop as Loop
    from pytest_overfit.plugin.cases import OverfitRung as OverfitRung
    from pytest_overfit.plugin.cases import parametrize_with_rungs as parametrize_with_rungs
    from pytest_overfit.recipe import Recipe as Recipe
    from pytest_overfit.subject import Sample as Sample
    from pytest_overfit.subject import Subject as Subject

_HOMES = {
    "Finding": "finding",
    "HealthCallback": "health.lightning",
    "Loop": "loop.loop",
    "Outcome": "climb.ladder",
    "OverfitRung": "plugin.cases",
    "Recipe": "recipe",
    "Rung": "climb.ladder",
    "Sample": "subject",
    "Subject": "subject",
    "Watch": "health.watch",
    "check_up": "health.checkup",
    "parametrize_with_rungs": "plugin.cases",
    "read_run": "health.readers",
}
__all__ = [
    "Finding",
    "HealthCallback",
    "Loop",
    "Outcome",
    "OverfitRung",
    "Recipe",
    "Rung",
    "Sample",
    "Subject",
    "Watch",
    "check_up",
    "parametrize_with_rungs",
    "read_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pytest_overfit.{_HOMES[name]}"), name)
