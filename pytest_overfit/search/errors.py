"""What ends a search with one line."""

from __future__ import annotations


class BadSearch(ValueError):
    """A search that cannot be made; the message says why and what to do."""


def require_optuna() -> None:
    """Raises BadSearch where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise BadSearch("a search needs optuna: pip install 'pytest-overfit[search]'") from error
