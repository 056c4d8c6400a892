"""Changes to signing that leave its meaning: another tempo within a clip, and a signer who stands a
little differently and trembles.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from fixtures.landmarks import Floats, Landmarks, join, resample

TEMPO = 0.15  # the middle of a clip is moved by up to this share of its length
TURN = math.radians(8)
SCALE = 0.08
MOVE = 0.05  # shoulder widths
TREMBLE = 0.02  # shoulder widths at most, each point in each frame
NOISE = 0.1  # standard deviations of a feature


def altered(clip: Landmarks, frames: int, draw: RandomState) -> Landmarks:
    """A normalised recording with another tempo, resampled to `frames`, turned in the picture
    plane, scaled, moved, and trembling.

    Hands and body move together. Unseen points stay unseen.
    """
    warped = _warped(clip, frames, draw)
    angle, scale = draw.uniform(-TURN, TURN), 1 + draw.uniform(-SCALE, SCALE)
    turn = scale * np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=np.float32
    )
    points = warped.points.copy()
    points[..., :2] = points[..., :2] @ turn + draw.uniform(-MOVE, MOVE, 2).astype(np.float32)
    points += _trembling(points.shape, draw)
    points[~warped.seen] = 0
    return Landmarks(points=points, seen=warped.seen)


def _trembling(shape: tuple[int, ...], draw: RandomState) -> Floats:
    """Uniform noise in 256 steps: six times as fast as from floating-point draws, and 1629 numbers
    a frame are drawn.
    """
    steps = (
        np.frombuffer(draw.bytes(math.prod(shape)), dtype=np.uint8)
        .reshape(shape)
        .astype(np.float32)
    )
    return TREMBLE * (steps / np.float32(127.5) - 1)


def _warped(clip: Landmarks, frames: int, draw: RandomState) -> Landmarks:
    """First and second half of the clip, each at a tempo of its own."""
    shift = draw.uniform(-TEMPO, TEMPO)
    if clip.frames < 4 or frames < 4:
        return resample(clip, frames)
    middle, cut = clip.frames // 2, min(max(round(frames * (0.5 + shift)), 2), frames - 2)
    first = Landmarks(points=clip.points[:middle], seen=clip.seen[:middle])
    second = Landmarks(points=clip.points[middle:], seen=clip.seen[middle:])
    return join([resample(first, cut), resample(second, frames - cut)])


def altered_features(features: Tensor, draw: RandomState) -> Tensor:
    """Features (frames, dim) of any corpus at another tempo, with noise on what was seen (not
    zero); as many frames as before.
    """
    frames = len(features)
    shift = draw.uniform(-TEMPO, TEMPO)
    position = torch.from_numpy(
        np.interp(np.linspace(0, 1, frames), [0, 0.5 + shift, 1], [0, (frames - 1) / 2, frames - 1])
    ).to(features)
    left = position.floor().long().clamp(max=frames - 1)
    right = (left + 1).clamp(max=frames - 1)
    weight = (position - left)[:, None]
    before, after = features[left], features[right]
    nearer = torch.where(weight < 0.5, before, after)
    warped = torch.where(
        (before != 0) & (after != 0), before * (1 - weight) + after * weight, nearer
    )
    noise = torch.from_numpy(draw.normal(0, NOISE, warped.shape)).to(features)
    return torch.where(warped != 0, warped + noise, warped)
