"""Tell, before a merge, whether a CTC network can still learn, and if not, at which scale it breaks.

Names are imported on first use: the pytest plugin lives in this package and must not import torch for projects that do not use it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_overfit.cases import parametrize_with_rungs as parametrize_with_rungs
    from pytest_overfit.ladder import Outcome as Outcome
    from pytest_overfit.ladder import Rung as Rung
    from pytest_overfit.loop.loop import Loop as Loop
    from pytest_overfit.recipe import Recipe as Recipe
    from pytest_overfit.subject import Sample as Sample
    from pytest_overfit.subject import Subject as Subject

_HOMES = {
    "Loop": "loop.loop",
    "Outcome": "ladder",
    "Recipe": "recipe",
    "Rung": "ladder",
    "Sample": "subject",
    "Subject": "subject",
    "parametrize_with_rungs": "cases",
}
__all__ = ["Loop", "Outcome", "Recipe", "Rung", "Sample", "Subject", "parametrize_with_rungs"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pytest_overfit.{_HOMES[name]}"), name)
