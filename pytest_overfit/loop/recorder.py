"""Notes what a loop does while it runs: forward and backward passes, zeroing, clipping, scaling,
steps and rates, each with its line.

A loop tells nothing of itself but its losses. What it calls can be seen all the same: for as long
as its code runs, and no longer, torch's own functions are wrapped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from pytest_overfit.errors import ENGINE, LIBRARIES

Kind = Literal[
    "batch",
    "call",
    "ctc",
    "backward",
    "grown",
    "zero",
    "clip",
    "scale",
    "unscale",
    "update",
    "before_step",
    "step",
    "schedule",
    "seed",
    "load",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """Something that a loop did. where: `file:line` of the user's frame.

    of: the optimiser, scaler or samples it was done with or to.
    """

    kind: Kind
    where: str | None = None
    of: Any = None
    facts: dict[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]


def is_users(filename: str) -> bool:
    """Whether a frame of this file is no library's and not ours."""
    return not filename.startswith((f"{ENGINE}/", *LIBRARIES, "<"))


def place(filename: str, line: int) -> str:
    """`file:line`, relative to the working directory where the file lies below it."""
    path = Path(filename)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


def users_line() -> str | None:
    """`file:line` of the innermost frame that is no library's; None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


@contextmanager
def recording(network: nn.Module, on_event: OnEvent) -> Iterator[None]:
    """Call `on_event` with every event until the block ends; torch is then as it was."""

    def emit(kind: Kind, of: Any = None, **facts: Any) -> None:
        where = None if kind == "call" else users_line()  # of those there are many
        on_event(Event(kind=kind, where=where, of=of, facts=facts))

    def before(
        kind: Kind,
        owner: Any,
        name: str,
        facts: Callable[..., dict[str, Any]] = lambda *_, **__: {},
    ) -> Any:
        inner = getattr(owner, name)

        @wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            emit(kind, args[0] if args else None, **facts(*args, **kwargs))
            return inner(*args, **kwargs)

        return patch.object(owner, name, outer)

    inner_ctc, inner_clips = (
        torch.ctc_loss,
        {name: getattr(nn.utils, name) for name in ("clip_grad_norm_", "clip_grad_value_")},
    )

    def ctc_loss(
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Any,
        target_lengths: Any,
        *rest: Any,
        **kwargs: Any,
    ) -> Tensor:
        value: Tensor = inner_ctc(
            log_probs, targets, input_lengths, target_lengths, *rest, **kwargs
        )
        blank = rest[0] if rest else kwargs.get("blank", 0)
        lengths = {
            "input_lengths": torch.as_tensor(input_lengths),
            "target_lengths": torch.as_tensor(target_lengths),
        }
        emit(
            "ctc",
            log_probs=log_probs,
            targets=targets,
            blank=blank,
            value=value,
            training=network.training,
            graded=value.requires_grad,
            **lengths,
        )
        return value

    def backward_facts(tensors: Any, *_: Any, **__: Any) -> dict[str, Any]:
        value = tensors if isinstance(tensors, Tensor) else tensors[0]
        return {"value": float(value.detach().sum()), "training": network.training}

    inner_backward = torch.autograd.backward

    @wraps(inner_backward)
    def backward(*args: Any, **kwargs: Any) -> Any:
        emit("backward", args[0] if args else None, **backward_facts(*args, **kwargs))
        given = inner_backward(*args, **kwargs)
        emit("grown")
        return given

    with ExitStack() as stack:
        for one in (
            patch.object(torch, "ctc_loss", ctc_loss),
            patch.object(torch.autograd, "backward", backward),
            before("zero", Optimizer, "zero_grad"),
            before("zero", nn.Module, "zero_grad"),
            before(
                "scale",
                torch.amp.GradScaler,
                "scale",
                lambda scaler, *_: {"enabled": scaler.is_enabled()},
            ),
            before(
                "unscale",
                torch.amp.GradScaler,
                "unscale_",
                lambda scaler, *_: {"enabled": scaler.is_enabled()},
            ),
            before(
                "update",
                torch.amp.GradScaler,
                "update",
                lambda scaler, *_: {"enabled": scaler.is_enabled()},
            ),
            before(
                "schedule",
                LRScheduler,
                "step",
                _of_schedule,
            ),
            before(
                "schedule",
                ReduceLROnPlateau,
                "step",
                _of_schedule,
            ),
            before("load", nn.Module, "load_state_dict"),
            before("seed", torch, "manual_seed"),
        ):
            stack.enter_context(one)
        for name, inner in inner_clips.items():
            for owner in (nn.utils, nn.utils.clip_grad):
                stack.enter_context(patch.object(owner, name, _clip(inner, emit)))
        stack.callback(
            register_module_forward_pre_hook(
                lambda module, given: _called(emit, module, given, {})
            ).remove
        )
        stack.callback(
            network.register_forward_pre_hook(
                lambda *given: _called(emit, *given), with_kwargs=True
            ).remove
        )
        stack.callback(
            register_optimizer_step_pre_hook(lambda *given: _about_to_step(emit, *given)).remove
        )
        stack.callback(
            register_optimizer_step_post_hook(lambda optimizer, *_: emit("step", optimizer)).remove
        )
        yield


def _of_schedule(schedule: Any, *given: Any, **named: Any) -> dict[str, Any]:
    """begun: whether it is more than the step that its constructor takes. maximised: the number that
    a schedule is given to reduce the rate where it no longer rises.
    """
    facts = {"optimizer": schedule.optimizer, "begun": getattr(schedule, "_step_count", 1) > 0}
    if isinstance(schedule, ReduceLROnPlateau) and schedule.mode == "max":
        facts["maximised"] = float(given[0] if given else named["metrics"])
    return facts


def _called(
    emit: Callable[..., None], module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """A module is called, by position or by keywords; not where a checkpoint runs it once more in a
    backward pass.
    """
    if torch._C._current_graph_task_id() != -1:
        return
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    emit("call", module, given=(*given, *named.values()), autocast=autocast)


def _about_to_step(
    emit: Callable[..., None], optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A step begins: where it is given a closure, once the closure has done the backward pass."""
    closure = named.get("closure", given[1] if len(given) > 1 else None)
    if not callable(closure):
        emit("before_step", optimizer)
        return None

    @wraps(closure)
    def outer() -> Any:
        loss = closure()
        emit("before_step", optimizer)
        return loss

    return (
        ((given[0], outer, *given[2:]), named)
        if "closure" not in named
        else (given, {**named, "closure": outer})
    )


def _clip(inner: Callable[..., Any], emit: Callable[..., None]) -> Callable[..., Any]:
    """Clipping that tells the norm before and after."""

    @wraps(inner)
    def outer(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        taken = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        norm = gradient_norm(taken)
        given = inner(taken, *args, **kwargs)
        emit("clip", taken, norm=norm, clipped=gradient_norm(taken))
        return given

    return outer


def gradient_norm(parameters: list[Tensor]) -> float:
    """Of all parameters together; 0 where none has a gradient."""
    norms = [
        parameter.grad.detach().float().norm()
        for parameter in parameters
        if parameter.grad is not None
    ]
    return float(torch.stack(norms).norm()) if norms else 0.0
