"""How much of what a network says in train mode is randomness: dropout, masks, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pytest_overfit.network.recorder import Call, recorded, undisturbed
from pytest_overfit.subject import Sample, Subject, collate

LOOKS = 8
"""Passes in train mode, each with its own randomness."""
NOTHING, MOST = 0.05, 0.8
"""Share of a fresh output that is the randomness of train mode: below it is no reason for anything;
above it most of the clip is destroyed. Measured on one clip: Transformers and wav2vec 2.0 of the
field 0.01 to 0.79, nine in ten latents masked or dropped 0.86 to 0.99.
"""
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the randomness of train mode does to one clip. share: of the variation of the output,
    over passes and steps. module: the first that hands on mostly randomness and is given less.
    """

    share: float
    module: str | None

    @staticmethod
    def of(
        subject: Subject, network: nn.Module, sample: Sample, device: torch.device | str = "cpu"
    ) -> Noise:
        """Read a network, which is left as it was, in passes with randomness of their own."""
        clip, outputs, passages = collate([sample]).to(device), list[Tensor](), list[list[Call]]()
        for seed in range(LOOKS):
            with (
                undisturbed(network, train=True, seed=seed),
                torch.no_grad(),
                recorded(network) as calls,
            ):
                log_probs, steps = subject.log_probs(network, clip.features, clip.frames)
            logits = log_probs[: int(steps[0]), 0].double()
            outputs.append(logits - logits.mean(-1, keepdim=True))
            passages.append(calls)
        if len({output.shape for output in outputs}) > 1:  # even how many steps there are
            return Noise(share=1.0, module=None)
        spoken = torch.stack(outputs)
        spread = float((spoken - spoken.mean((0, 1))).square().mean())
        share = float(spoken.var(0).mean()) / spread if spread > TINY else 0.0
        lengths = {sample.frames, len(log_probs)}
        module = _first_noisy(passages, lengths) if share > MOST else None
        return Noise(share=share, module=module)


def _first_noisy(passages: list[list[Call]], lengths: set[int]) -> str | None:
    for calls in zip(*passages, strict=False):
        if len({call.module for call in calls}) > 1:
            return None
        given = _between([call.inputs[:1] for call in calls], lengths)
        handed_on = _between([call.outputs[:1] for call in calls], lengths)
        if given is not None and handed_on is not None and handed_on > MOST and given < MOST / 2:
            return str(calls[0].module)
    return None


def _between(passes: Sequence[Sequence[Tensor]], lengths: set[int]) -> float | None:
    """Share of the variation of a tensor, over passes and steps, that is between passes; None where
    its one axis of time cannot be told.

    lengths: what that axis may have.
    """
    found = [tensors[0].double() for tensors in passes if tensors]
    if len(found) < len(passes) or len({tensor.shape for tensor in found}) > 1:
        return None
    whole = torch.stack(found)
    axes = [axis for axis in range(2, whole.ndim) if whole.shape[axis] in lengths]
    if len(axes) != 1:
        return None
    total = float((whole - whole.mean((0, axes[0]), keepdim=True)).square().mean())
    return float(whole.var(0).mean()) / total if total > TINY else 0.0
