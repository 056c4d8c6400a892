"""At which rates a network drops values in training, by modules and by functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pytest_overfit.network.function_edits import ATTENDING, DROPPING
from pytest_overfit.network.recorder import undisturbed
from pytest_overfit.subject import Sample, Subject, collate


class _Rates(TorchFunctionMode):
    """Notes each call of dropout under the innermost module that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = [""]
        self.rates: dict[str, float] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in DROPPING:
            rate = float(named["p"] if "p" in named else [*args[1:2], 0.5][0])
            drops = named.get("training", named.get("train", [*args[2:3], True][0]))
            self._note(rate if drops else 0.0)
        elif func is F.scaled_dot_product_attention:
            place = ATTENDING[func]
            self._note(float(named.get("dropout_p", [*args[place : place + 1], 0.0][0])))
        return func(*args, **named)

    def _note(self, rate: float) -> None:
        where = self.inside[-1]
        self.rates[where] = max(self.rates.get(where, 0.0), rate)


def dropout_rates(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The highest rate at which each module drops in train mode, by itself or by a function that it
    calls; "" is the network.
    """
    reading = _Rates()

    def entered(name: str) -> Callable[..., None]:
        return lambda *_: reading.inside.append(name)

    def left(*_: object) -> None:
        reading.inside.pop()

    handles = [
        handle
        for name, module in network.named_modules()
        for handle in (
            module.register_forward_pre_hook(entered(name)),
            module.register_forward_hook(left, always_call=True),
        )
    ]
    batch = collate(samples).to(device)
    try:
        with undisturbed(network, train=True, seed=0), torch.no_grad(), reading:
            subject.log_probs(network, batch.features, batch.frames)
    finally:
        for handle in handles:
            handle.remove()
    return reading.rates
