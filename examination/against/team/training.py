"""How it is trained."""

LAYER_LR: dict[str, float] = {}
CLIP = 1.0
