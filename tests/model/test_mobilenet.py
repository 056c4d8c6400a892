"""The healthy MobileNetV3: its promises, its variants, and that it learns from the first step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model.mobilenet import PARTS, ROWS, MobileNetV3CTC, create_mobilenetv3
from model.variants import VARIANTS
from tests.model.clips import (
    VOCABULARY,
    clips,
    ctc,
    descend,
    distance_alone_and_together,
    parameters,
    targets,
    without_gradient,
)

NAMES = [None, *VARIANTS]


def small(variant: str | None = None, *, width: int = 1629) -> MobileNetV3CTC:
    return create_mobilenetv3(VOCABULARY, feature_dim=width, hidden_dim=32, variant=variant)


@given(frames=st.lists(st.integers(1, 60), min_size=1, max_size=3), variant=st.sampled_from(NAMES))
@settings(max_examples=25)
def test_gives_as_many_steps_as_frames(frames: list[int], variant: str | None) -> None:
    log_probs, steps = small(variant).eval()(*clips(frames))
    assert log_probs.shape == (max(frames), len(frames), VOCABULARY)
    assert steps.tolist() == frames
    assert steps.dtype == torch.int64


@pytest.mark.parametrize("variant", NAMES)
def test_a_clip_gives_the_same_alone_and_beside_longer_ones(variant: str | None) -> None:
    assert distance_alone_and_together(small(variant), [90, 61, 34, 5]) < 1e-4


def test_normalised_output_starts_near_uniform_with_blank_least_likely() -> None:
    network = create_mobilenetv3(973)
    features, frames = clips([176, 176])
    log_probs, _ = network(features, frames)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(176, 2))
    assert -(log_probs.exp() * log_probs).sum(-1).mean() / math.log(973) > 0.85
    assert log_probs[..., 0].mean() < -math.log(973) - 2
    assert 0.5 < log_probs[..., 1:].std() < 2


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_a_fresh_network_tells_clips_apart(mode: bool) -> None:
    log_probs, _ = create_mobilenetv3(973).train(mode)(*clips([176] * 4))
    variation = (log_probs.exp() - log_probs.exp().mean(1, keepdim=True)).abs().sum(-1).mean() / 2
    assert variation > 0.02


@pytest.mark.parametrize(("hidden_dim", "low", "high"), [(128, 1.1e6, 1.2e6), (512, 7.5e6, 8.5e6)])
def test_parameters(hidden_dim: int, low: float, high: float) -> None:
    assert low < parameters(create_mobilenetv3(973, hidden_dim=hidden_dim)) < high


@pytest.mark.parametrize("variant", NAMES)
def test_every_parameter_gets_a_gradient_and_a_step_lowers_the_loss(variant: str | None) -> None:
    network, (features, frames), target = small(variant), clips([64, 48]), targets(2)
    assert without_gradient(network, features, frames, target) == []
    losses = descend(network, features, frames, target, steps=3, lr=1e-4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("width", [1629, 6516, 512])
def test_reads_every_feature(width: int) -> None:
    network = small(width=width)
    features, frames = clips([40, 33], width=width)
    features.requires_grad_()
    ctc(network, features, frames, targets(2)).backward()
    assert features.grad is not None
    assert features.grad[0].any(0).all()
    assert not features.grad[1, 33:].any()


def test_each_encoder_reads_its_own_part_of_every_block() -> None:
    network = small(width=6516).eval()
    features, frames = clips([8], width=6516)
    read: dict[str, torch.Tensor] = {}
    for part in PARTS:
        network.get_submodule(f"{part}_encoder").register_forward_pre_hook(
            lambda _, args, part=part: read.update({part: args[0]})
        )
    network(features, frames)
    for part, columns in PARTS.items():
        assert torch.equal(
            read[part], features[0].unflatten(-1, (4, 1629))[..., columns].flatten(1)
        )
    assert {name for name, _ in network.named_children() if name.endswith("encoder")} == {
        f"{part}_encoder" for part in PARTS
    }


@pytest.mark.parametrize("clips_at_once", [1, 3])
def test_learns_at_once_and_agrees_with_itself_in_eval_mode(clips_at_once: int) -> None:
    network = create_mobilenetv3(VOCABULARY, hidden_dim=64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.3
    (features, frames), target = clips([64, 48, 64][:clips_at_once]), targets(clips_at_once)
    trained = descend(network, features, frames, target, steps=60, lr=3e-3)[-1]
    evaluated = ctc(network.eval(), features, frames, target).item()
    assert trained < 0.05
    assert evaluated < 0.1


def test_an_unknown_variant_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match="no variant 'deeper'; it has without_blocks, without_downsampling"
    ):
        create_mobilenetv3(VOCABULARY, variant="deeper")


def test_variants_are_what_their_names_say() -> None:
    assert len(list(small("without_blocks").blocks)) == 0
    assert not any(
        isinstance(module, nn.BatchNorm1d)
        for name in ("layer_norm", "no_norm")
        for module in small(name).modules()
    )
    assert all(
        stride == (1,)
        for stride in (
            m.stride for m in small("without_downsampling").modules() if isinstance(m, nn.Conv1d)
        )
    )
    assert any(isinstance(module, nn.MultiheadAttention) for module in small("attention").modules())
    assert parameters(small("wider")) > parameters(small())
    assert parameters(small("skip")) > parameters(small())


def test_a_larger_stride_is_told_in_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.mobilenet.ROWS", (*ROWS[:-1], ROWS[-1]._replace(stride=4)))
    log_probs, steps = small().eval()(*clips([176, 90]))
    assert (len(log_probs), steps.tolist()) == (44, [44, 24])
