"""A recipe file, as a search writes it, read as settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_overfit.recipe import BadRecipe, read_recipe

FLAGS: Mapping[str, str] = {
    "optimizer": "optimizer",
    "lr": "learning_rate",
    "batch": "batch_size",
    "accumulation": "accumulation_steps",
    "clip": "clip",
    "schedule": "schedule",
    "weight_decay": "weight_decay",
    "label_smoothing": "label_smoothing",
}
"""Recipe field -> flag."""
CARRIED = ("momentum", "beta2", "reduction", "layer_lr")
"""Recipe fields that have no flag, and are taken as they are."""
BUILT = ("hidden_dim", "dropout", "variant")
"""Keywords of the networks, each a flag too."""


def read_tuned(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flags and carried fields that a recipe file sets.

    Lengths are left out: a rung's are in steps, a run's in epochs; a batch of the whole rung too.
    Raises BadRecipe where the file is no recipe, or sets a keyword that the networks do not have.
    """
    fields, _ = read_recipe(path)
    network = fields.get("network", {})
    for keyword in network:
        if keyword not in BUILT:
            raise BadRecipe(f"recipe {path}: the networks here have no keyword {keyword!r}")
    flags = {FLAGS[name]: value for name, value in fields.items() if name in FLAGS}
    if flags.get("clip", "") == "none":
        flags["clip"] = 0.0
    if flags.get("batch_size") == "none":
        del flags["batch_size"]
    return {**flags, **network}, {name: fields[name] for name in CARRIED if name in fields}
