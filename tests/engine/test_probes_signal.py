"""The numbers read off one tensor, on tensors whose numbers are known; and the line that creates a
module.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_overfit.network.signal import (
    effective_rank,
    linear_response,
    read_signal,
    weight_gain,
    without_common_level,
)
from pytest_overfit.network.source import where
from tests.engine.networks import Conv, Folded, OverTime, Residual

ALL = torch.ones(4, 5, dtype=torch.bool)


def test_tells_clips_apart() -> None:
    own, common = torch.randn(4, 1, 300), torch.randn(1, 5, 300)
    own = own - own.mean(0)
    between_sample_share = read_signal(own + 3 * common, ALL, "").between_sample_share
    assert between_sample_share == pytest.approx(0.075, rel=0.2)
    assert read_signal(own.expand(4, 5, 300), ALL, "").between_sample_share == pytest.approx(1.0)
    assert read_signal(common.expand(4, 5, 300), ALL, "").between_sample_share == pytest.approx(
        0.0, abs=1e-12
    )


def test_tells_steps_apart() -> None:
    common = torch.randn(1, 5, 300)
    common = common - common.mean(1, keepdim=True)
    signal = read_signal(common.expand(4, 5, 300), ALL, "")
    assert signal.between_step_share == pytest.approx(1.0)
    assert read_signal(
        torch.randn(4, 1, 30).expand(4, 5, 30), ALL, ""
    ).between_step_share == pytest.approx(0.0, abs=1e-12)


def test_padding_counts_for_nothing() -> None:
    h, valid = torch.randn(4, 5, 30), torch.arange(5)[None] < torch.tensor([5, 3, 4, 2])[:, None]
    noisy = torch.where(valid[..., None], h, torch.full_like(h, math.nan))
    assert read_signal(h, valid, "ReluBackward0") == read_signal(noisy, valid, "ReluBackward0")
    assert read_signal(h, valid, "").rms == pytest.approx(float(h[valid].square().mean().sqrt()))


def test_one_clip_cannot_be_told_apart() -> None:
    signal = read_signal(torch.randn(1, 5, 30), ALL[:1], "")
    assert signal.between_sample_share is None
    assert signal.between_step_share is not None


def test_sees_what_differs_by_a_millionth() -> None:
    h = 1 + 1e-5 * torch.randn(4, 5, 300)
    between_sample_share = read_signal(h, ALL, "").between_sample_share
    assert between_sample_share == pytest.approx(0.75e-10, rel=0.1)


def test_logits_and_log_probabilities_tell_the_same() -> None:
    logits = torch.randn(4, 5, 900)
    logits = logits - logits.mean(-1, keepdim=True)
    torch.testing.assert_close(
        without_common_level(logits.log_softmax(-1)), logits, rtol=0, atol=1e-5
    )
    assert without_common_level(logits) is logits


def test_counts_dead_units() -> None:
    h = torch.rand(4, 5, 10) + 0.1
    h[..., :3] = 0
    assert read_signal(h, ALL, "ReluBackward0").dead_share == pytest.approx(0.3)
    assert read_signal(h, ALL, "").dead_share is None


@pytest.mark.parametrize("directions", [1, 2, 8])
def test_effective_rank_of_equal_directions(directions: int) -> None:
    basis = torch.linalg.qr(torch.randn(64, directions))[0].T
    h = (torch.randn(40, 50, directions) @ basis) + 5
    assert effective_rank(h, torch.ones(40, 50, dtype=torch.bool)) == pytest.approx(
        directions, rel=0.1
    )


def test_effective_rank_of_nothing() -> None:
    assert effective_rank(torch.ones(4, 5, 8), ALL) == 0
    assert effective_rank(torch.full((4, 5, 8), math.inf), ALL) is None


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(200, 100),
        nn.Conv1d(64, 64, 5),
        nn.Conv1d(256, 256, 9, groups=256),
        nn.Conv2d(16, 32, 3),
    ],
    ids=lambda module: type(module).__name__ + str(getattr(module, "groups", "")),
)
def test_gain_of_torchs_own_start(module: nn.Module) -> None:
    assert weight_gain(module) == pytest.approx(1 / math.sqrt(3), rel=0.1)


def test_gain_of_depthwise_weights_by_fan_out() -> None:
    conv = nn.Conv1d(128, 128, 5, groups=128)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (128 * 5)))
    assert weight_gain(conv) == pytest.approx(math.sqrt(2 / 128), rel=0.15)


@pytest.mark.parametrize(
    "module",
    [nn.Linear(6, 4), nn.Conv1d(6, 4, 3), nn.ConvTranspose1d(6, 4, 2)],
    ids=lambda m: type(m).__name__,
)
def test_response_less_the_bias(module: nn.Module) -> None:
    x = torch.randn(2, 6, 6)
    response = linear_response(module, module(x).detach())
    assert response is not None
    module.get_parameter("bias").data.zero_()
    torch.testing.assert_close(response[0], module(x).detach())


def test_names_the_line_that_creates_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    lines = Path("tests/engine/networks.py").read_text(encoding="utf-8").splitlines()

    def line(network: nn.Module, name: str) -> str:
        place = where(network, name)
        assert place is not None
        file, _, number = place.partition(":")
        assert file == "tests/engine/networks.py"
        return lines[int(number) - 1].strip()

    assert line(Conv(4, 4), "norm").startswith("self.norm = {")
    assert line(Folded(), "right").startswith("self.left, self.right =")
    assert line(Folded(), "norms.1").startswith("self.norms = nn.ModuleList")
    assert line(OverTime(Residual(nn.ReLU())), "layers.0").startswith("self.layers = nn.Sequential")
    assert line(nn.Sequential(Residual(nn.ReLU())), "0").startswith("class Residual")
    assert where(nn.Sequential(nn.ReLU()), "0") is None
