"""A processor of another make, made reproducible: every fresh network's weights are off by one part
in a million.

Python imports this file at its start where its folder is on PYTHONPATH, so that processes which
tests start take part. It acts on two variables: OVERFIT_JITTER, the seed of the jitter, and
OVERFIT_STEPS, a file that gets one byte for each optimiser step. Neither set: it does nothing.
Nothing here imports torch: its modules are patched when somebody imports them.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import os
import sys
import zlib
from typing import Any

JITTER, STEPS = "OVERFIT_JITTER", "OVERFIT_STEPS"
SIZE = 1e-6


def jitter(parameters: Any, seed: int, done: Any) -> None:
    """Multiply each weight that is not in `done` by 1 + 1e-6 x a normal number, and add it there.

    Parameters of one shape get the same numbers, and nothing is drawn from torch's own generator:
    networks that were equal stay equal.
    """
    import torch

    for parameter in parameters:
        if (
            parameter in done
            or not parameter.is_floating_point()
            or torch.nn.parameter.is_lazy(parameter)
        ):
            continue
        generator = torch.Generator().manual_seed(
            1000 * seed + zlib.crc32(repr(tuple(parameter.shape)).encode())
        )
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.mul_((1 + SIZE * noise).to(parameter))
        done[parameter] = True


def on_optimizer(module: Any) -> None:
    """Jitter what an optimiser is given, and note each step that one takes."""
    if seed := os.environ.get(JITTER):
        build, done = module.Optimizer.__init__, _done()

        @functools.wraps(build)
        def jittered(self: Any, *args: Any, **kwargs: Any) -> None:
            build(self, *args, **kwargs)
            jitter(
                (parameter for group in self.param_groups for parameter in group["params"]),
                int(seed),
                done,
            )

        module.Optimizer.__init__ = jittered

    def note(*_: Any) -> None:
        if steps := os.environ.get(STEPS):
            with open(steps, "ab") as file:
                file.write(b".")

    module.register_optimizer_step_post_hook(note)


def on_subject(module: Any) -> None:
    """Jitter what a subject builds, trained or not."""
    if seed := os.environ.get(JITTER):
        fresh, done = module.Subject.fresh, _done()

        @functools.wraps(fresh)
        def jittered(self: Any, **keywords: Any) -> Any:
            network = fresh(self, **keywords)
            jitter(network.parameters(), int(seed), done)
            return network

        module.Subject.fresh = jittered


@functools.cache
def _done() -> Any:
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()


PATCHES = {"torch.optim.optimizer": on_optimizer, "pytest_overfit.subject": on_subject}


class Patching(importlib.abc.MetaPathFinder):
    """Lets the other finders find a module of PATCHES, and patches it once it has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in PATCHES:
            return None
        others = (
            finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self
        )
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader)
        return spec


class _PatchingLoader(importlib.abc.Loader):
    """One module's loader.

    It stands before the real one, which may be the loader of many modules.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self.loader.exec_module(module)
        PATCHES[module.__name__](module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def begin() -> None:
    """Patch what is imported from now on; once a process, under whatever name this file was
    imported.
    """
    if not any(type(finder).__name__ == Patching.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, Patching())


if __name__ == "sitecustomize" and (JITTER in os.environ or STEPS in os.environ):
    begin()
