"""Changes around a network: what a remedy does to what a subject feeds it, makes of its output, or
lets gradients pass through.

Each function takes a subject and returns another; the network itself is left alone.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from pytest_overfit import ctc
from pytest_overfit.network.network_edits import CannotEdit
from pytest_overfit.network.source import TORCH
from pytest_overfit.subject import Subject, call_network

DETACHING = {torch.detach, torch.detach_, Tensor.detach, Tensor.detach_, Tensor.data.__get__}  # type: ignore[attr-defined]
ROUNDING = {
    torch.round,
    torch.floor,
    torch.ceil,
    torch.sign,
    Tensor.round,
    Tensor.floor,
    Tensor.ceil,
    Tensor.sign,
}
DROPPING = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
}
DRAWING = {torch.randn, torch.rand, torch.randn_like, torch.rand_like, torch.normal}
DRAWING_IN_PLACE = {Tensor.normal_, Tensor.uniform_}
FLIPPING = {torch.flip, Tensor.flip, torch.fliplr, torch.flipud}
RESHAPING = {Tensor.view, Tensor.reshape, torch.reshape}
MOST_AXES = 5


class Transparent(TorchFunctionMode):
    """Within it `.detach()`, `.data` and `torch.no_grad` let gradients pass: shows what a network
    would learn without them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DETACHING:
            return args[0]
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


def undetached(subject: Subject) -> Subject:
    """The subject whose forward pass lets gradients through every `.detach()` while it is
    trained.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return subject.forward(network, features, frames)
        with Transparent():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


class Undropped(TorchFunctionMode):
    """Within it dropout hands on what it is given, in whatever mode and by whatever name it is
    called.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in DROPPING else func(*args, **(kwargs or {}))


def undropped(subject: Subject) -> Subject:
    """The subject whose forward pass runs without any dropout, that of functions and of frozen
    train mode included.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with Undropped():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


class Noiseless(TorchFunctionMode):
    """Within it torch draws zeros in the place of random numbers; dropout and masks aside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in DRAWING:
            return torch.zeros_like(made).requires_grad_(made.requires_grad)
        return made.detach().zero_() if func in DRAWING_IN_PLACE else made


def noiseless(subject: Subject) -> Subject:
    """The subject whose forward pass draws zeros for random numbers, as for a first state."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with Noiseless():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


class Unflipped(TorchFunctionMode):
    """Within it nothing is turned round."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in FLIPPING else func(*args, **(kwargs or {}))


def unflipped(subject: Subject) -> Subject:
    """The subject whose forward pass turns nothing round, in time or otherwise."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with Unflipped():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


def stateless(subject: Subject) -> Subject:
    """The subject whose network begins every call with the attributes it had before its first,
    buffers and parameters aside.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        kept = [(module, dict(vars(module))) for module in network.modules()]
        try:
            return subject.forward(network, features, frames)
        finally:
            for module, attributes in kept:
                vars(module).clear()
                vars(module).update(attributes)

    return replace(subject, forward=forward)


def plainly_called(subject: Subject) -> Subject:
    """The subject without its own `forward`: the network is called with features and frames.

    Raises CannotEdit where it has none.
    """
    if subject.forward is call_network:
        raise CannotEdit(f"{subject.name} has no forward of its own")
    return replace(subject, forward=call_network)


def of_output(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    """The subject with its network's output changed, whatever its axes."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        output, steps = subject.forward(network, features, frames)
        return change(output), steps

    return replace(subject, forward=forward)


def normalised(subject: Subject) -> Subject:
    """The subject whose output is passed through log_softmax, which leaves log-probabilities as
    they are.
    """
    return of_output(subject, lambda output: output.log_softmax(-1))


def logarithms(subject: Subject) -> Subject:
    """The subject with the logarithm of what are probabilities.

    Running it raises CannotEdit where the output has negative numbers.
    """

    def logarithm(output: Tensor) -> Tensor:
        if float(output.detach().min()) < 0:
            raise CannotEdit("the output holds negative numbers: they are no probabilities")
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()

    return of_output(subject, logarithm)


def from_head(subject: Subject) -> Subject:
    """The subject that reads the last layer's own output, before whatever stands behind it, through
    log_softmax.

    Running it raises CannotEdit where no layer has the vocabulary for its width.
    """
    size = len(subject.vocabulary)
    turned = [subject.layout == "BTV"]

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with _outputs(network, size) as logits:
            after, steps = subject.log_probs(network, features, frames)
        if not logits:
            raise CannotEdit(f"no layer of {subject.name} puts out {size} numbers a step")
        if (
            after.shape[0] != after.shape[1]
        ):  # where there are as many clips as steps, an earlier call tells which axis is which
            turned[0] = logits[-1].shape != after.shape
        own = logits[-1].transpose(0, 1) if turned[0] else logits[-1]
        if own.shape != after.shape:
            raise CannotEdit(
                f"the last layer puts out {tuple(logits[-1].shape)}, the subject "
                f"{tuple(after.shape)}"
            )
        return own.log_softmax(-1), steps

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


@contextmanager
def _outputs(network: nn.Module, size: int) -> Iterator[list[Tensor]]:
    """What layers with weights put out, `size` wide, in order: before any hook of the subject
    changes it.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 3:
            found.extend(
                [output.movedim(1, -1)]
                if output.shape[1] == size != output.shape[-1]
                else [output]
                if output.shape[-1] == size
                else []
            )

    layers = [
        module
        for module in network.modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    ]
    handles = [layer.register_forward_hook(keep, prepend=True) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def other_layout(subject: Subject) -> Subject:
    """The subject with time and batch read the other way round."""
    return replace(subject, layout="BTV" if subject.layout == "TBV" else "TBV")


def slower(subject: Subject, times: int) -> Subject:
    """The subject that is fed each frame `times` times: that many times the steps, whatever in the
    network takes them away.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return subject.forward(network, features.repeat_interleave(times, 1), frames * times)

    return replace(subject, forward=forward)


def counted_steps(subject: Subject) -> Subject:
    """The subject whose steps are counted on a clip of that many frames alone, whatever the network
    declares.
    """
    known: dict[int, int] = {}

    def count(network: nn.Module, features: Tensor, frames: int) -> int:
        if frames not in known:
            training = [module for module in network.modules() if module.training]
            network.eval()
            with torch.no_grad():
                known[frames] = len(
                    subject.log_probs(
                        network,
                        features[None, :frames],
                        torch.tensor([frames], device=features.device),
                    )[0]
                )
            for module in training:
                module.training = True
        return known[frames]

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        counts = [
            count(network, clip, n) for clip, n in zip(features, frames.tolist(), strict=True)
        ]
        log_probs, steps = subject.log_probs(network, features, frames)
        return log_probs, torch.tensor(counts, dtype=steps.dtype, device=steps.device).clamp(
            max=len(log_probs)
        )

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


def one_by_one(subject: Subject) -> Subject:
    """The subject that is run on each clip alone: no clip is padded or has batch mates."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        rows = [
            subject.log_probs(network, clip[None, :n], n[None])
            for clip, n in zip(features, frames, strict=True)
        ]
        padded = nn.utils.rnn.pad_sequence([row[:, 0] for row, _ in rows])
        return padded, torch.cat([steps for _, steps in rows])

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


def loss_on_cpu(subject: Subject) -> Subject:
    """The subject whose loss is computed on the CPU, wherever its output stands."""
    own = subject.loss or (lambda *batch: ctc.nats_per_token(*batch, blank=subject.blank))
    return replace(subject, loss=lambda log_probs, *rest: own(log_probs.cpu(), *rest))


def unmasked(subject: Subject) -> Subject:
    """The subject whose network runs in eval mode while it is trained, but for norms, which gather
    statistics, and recurrent layers.

    Masks and dropout of the input, whatever makes them, are then left out.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        masking = [
            m
            for m in network.modules()
            if m.training and not isinstance(m, _BatchNorm | nn.RNNBase)
        ]
        try:
            for module in masking:
                module.training = False
            return subject.forward(network, features, frames)
        finally:
            for module in masking:
                module.training = True

    return replace(subject, forward=forward)


class TrueGradients(TorchFunctionMode):
    """Within it no hook is put on a tensor's gradient, and nothing is rounded, whose true gradient
    is zero.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            return RemovableHandle(OrderedDict())
        if func in ROUNDING:
            return args[0]
        return func(*args, **(kwargs or {}))


def with_true_gradients(subject: Subject) -> Subject:
    """The subject without hooks on the gradients of modules, parameters and what they compute, and
    without rounding.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        for module in network.modules():
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        for parameter in network.parameters():
            (parameter._backward_hooks or {}).clear()
        with TrueGradients():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


def placed(subject: Subject) -> Subject:
    """The subject whose features carry the place of their frame. Source: Vaswani et al.

    2017, section 3.5 (sines and cosines).
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        place, column = torch.arange(features.shape[1])[:, None], torch.arange(features.shape[2])
        angle = place / 10_000 ** (2 * (column // 2) / features.shape[2])
        waves = torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(features)
        return subject.forward(network, features + waves, frames)

    return replace(subject, forward=forward)


def turned_back(subject: Subject) -> Subject:
    """The subject with each clip's output the other way round in time."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, steps = subject.log_probs(network, features, frames)
        rows = [
            torch.cat([log_probs[:n, clip].flip(0), log_probs[n:, clip]])
            for clip, n in enumerate(steps.tolist())
        ]
        return torch.stack(rows, 1), steps

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


class Permuting(TorchFunctionMode):
    """Within it a view or reshape that gives axes another order by name alone moves them: (batch,
    time, width) viewed as (batch, width, time) is transposed. Torch's own are left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RESHAPING and not sys._getframe(1).f_code.co_filename.startswith(TORCH):
            moved = _moved(args[0], result.shape)
            self.moved = self.moved or moved is not None
            return result if moved is None else moved
        return result


def permuted(subject: Subject) -> Subject:
    """The subject whose network moves axes where it only renames them.

    Running it raises CannotEdit where it renames none.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with Permuting() as permuting:
            result = subject.forward(network, features, frames)
        if not permuting.moved and len(features) > 1:
            raise CannotEdit(f"{subject.name} gives no axis another's name")
        return result

    return replace(subject, forward=forward)


def _moved(tensor: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The tensor in the new shape with its axes in another order, as few of them moved as can be;
    None where the shape keeps their order.
    """
    old = [size for size in tensor.shape if size > 1]
    new = [size for size in shape if size > 1]
    if max(len(old), len(new)) > MOST_AXES or _merges(old, new) or _merges(new, old):
        return None
    plain = tensor.reshape(old)
    for order in _orders(len(old)):
        if _merges([old[axis] for axis in order], new):
            return plain.permute(order).reshape(tuple(shape))
    for order in _orders(len(new)):
        split = [new[axis] for axis in order]
        if _merges(split, old):
            back = sorted(range(len(order)), key=order.__getitem__)
            return plain.reshape(split).permute(back).reshape(tuple(shape))
    return None


def _orders(axes: int) -> list[tuple[int, ...]]:
    """All orders of so many axes, those that change the fewest pairs first."""
    pairs = list(combinations(range(axes), 2))
    return sorted(
        permutations(range(axes)), key=lambda order: sum(order[a] > order[b] for a, b in pairs)
    )


def _merges(fine: Sequence[int], coarse: Sequence[int]) -> bool:
    """Whether neighbours among the fine sizes multiply to the coarse ones, in their order."""
    product, left = 1, list(coarse)
    for size in fine:
        product *= size
        if left and product == left[0]:
            product = 1
            left.pop(0)
    return not left and product == 1
