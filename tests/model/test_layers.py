"""Layers know their own length rule, and no clip sees its neighbour's padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.extent import Extent
from model.initialisation import fans, initialise, initialise_head
from model.layers import (
    BatchNorm,
    BiLSTM,
    Downsample,
    Layer,
    NormName,
    Pointwise,
    SelfAttention,
    SqueezeExcite,
    Stages,
    TemporalConv,
    Upsample,
    norm,
    normalised,
)
from tests.model.clips import clips

NORMS: tuple[NormName, ...] = ("batch", "layer", "group", "none")


def extent_of(frames: list[int]) -> tuple[Tensor, Extent]:
    features, lengths = clips(frames, width=8)
    return features, Extent.of(lengths, features)


@given(frames=st.integers(1, 60), kernel=st.sampled_from([1, 3, 5, 7]), stride=st.integers(1, 5))
@settings(max_examples=60)
def test_a_convolution_gives_the_steps_it_says(frames: int, kernel: int, stride: int) -> None:
    conv = TemporalConv(8, 4, kernel, stride=stride)
    assert conv(torch.randn(2, frames, 8)).shape == (2, conv.steps(frames), 4)
    assert (
        conv.steps(torch.tensor([frames])).tolist()
        == [conv.steps(frames)]
        == [math.ceil(frames / stride)]
    )


@given(
    frames=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    strides=st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
@settings(max_examples=40)
def test_stages_give_the_steps_they_say(frames: list[int], strides: list[int]) -> None:
    stages = Stages(
        [
            *(Downsample(8, 8, 3, stride=stride, normalisation="layer") for stride in strides),
            Upsample(8, 8, 4),
        ]
    ).eval()
    features, extent = extent_of(frames)
    after = extent.after(stages)
    out = stages(features, extent)
    assert out.shape[1] == stages.steps(max(frames)) == after.length
    assert after.steps.tolist() == [stages.steps(n) for n in frames]
    assert not out[~after.mask].any()


@given(frames=st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=40)
def test_packing_keeps_real_steps_and_clears_the_padding(frames: list[int]) -> None:
    features, extent = extent_of(frames)
    rows = extent.pack(features)
    assert len(rows) == sum(frames)
    assert torch.equal(extent.unpack(rows), features)
    assert torch.allclose(extent.mean(features)[0, 0], features[0, : frames[0]].mean(0), atol=1e-6)


def test_reversing_turns_each_clip_round_in_place() -> None:
    features, extent = extent_of([4, 2])
    turned = extent.reverse(features)
    assert torch.equal(turned[0], features[0].flip(0))
    assert torch.equal(turned[1, :2], features[1, :2].flip(0))
    assert torch.equal(extent.reverse(turned), features)


@pytest.mark.parametrize(
    "layer",
    [
        SqueezeExcite(8),
        SelfAttention(8),
        BiLSTM(8, 4, layers=2),
        Pointwise(8, 8, normalisation="group"),
    ],
    ids=repr,
)
def test_a_layer_gives_a_clip_the_same_alone_and_beside_longer_ones(layer: Layer) -> None:
    features, extent = extent_of([9, 5, 2])
    together = layer.eval()(features, extent)
    for clip, length in enumerate((9, 5, 2)):
        alone_features = features[clip : clip + 1, :length]
        alone = layer(alone_features, Extent.of(torch.tensor([length]), alone_features))
        torch.testing.assert_close(together[clip : clip + 1, :length], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [4, 6, 8, 12, 16, 24, 64])
def test_a_group_norm_leaves_more_of_its_channels_than_their_signs(channels: int) -> None:
    rows = clips([9], width=channels)[0][0]
    out = norm("group", channels)(rows)
    assert all(len(column.abs().unique()) > 1 for column in out.T)
    assert out.square().mean() > 0.9


def test_the_way_back_of_mixed_lengths_is_that_of_a_packed_lstm() -> None:
    lstm = BiLSTM(8, 4, layers=3)
    features, extent = extent_of([7, 3, 1])
    packed = nn.utils.rnn.pack_padded_sequence(
        features, extent.steps, batch_first=True, enforce_sorted=False
    )
    expected, _ = nn.utils.rnn.pad_packed_sequence(
        nn.LSTM.forward(lstm, packed)[0], batch_first=True
    )
    torch.testing.assert_close(lstm(features, extent), expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(lstm.parameters()))
    found = torch.autograd.grad(lstm(features, extent).square().sum(), list(lstm.parameters()))
    torch.testing.assert_close(found, wanted)


def test_a_transposed_convolution_widens_time() -> None:
    up = Upsample(8, 6, 4, normalisation="none")
    features, extent = extent_of([5])
    assert up(features, extent).shape == (1, 20, 6)
    assert up.steps(5) == 20


def test_batch_statistics_leave_padding_out() -> None:
    features, extent = extent_of([9, 3])
    norm = BatchNorm(8, momentum=1.0)
    out = normalised(features, norm, extent)
    rows = extent.pack(features)
    torch.testing.assert_close(norm.running_mean, rows.mean(0))
    torch.testing.assert_close(norm.running_var, rows.var(0, unbiased=False))
    assert not out[~extent.mask].any()


def test_a_batch_norm_gives_in_eval_mode_what_it_gave_in_training_on_one_short_clip() -> None:
    rows = torch.randn(6, 4) * 3 + 1
    norm = BatchNorm(4, momentum=1.0)
    trained = norm(rows)
    torch.testing.assert_close(norm.eval()(rows), trained)
    library = nn.BatchNorm1d(4, momentum=1.0)
    assert (library(rows) - library.eval()(rows)).abs().max() > 0.05, (
        "torch's estimate of the variance differs by 6 / 5"
    )


def test_a_batch_norm_differentiates_as_torchs_own() -> None:
    rows, weights = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    (own,) = torch.autograd.grad((BatchNorm(4)(rows) * weights).sum(), rows)
    (library,) = torch.autograd.grad((nn.BatchNorm1d(4)(rows) * weights).sum(), rows)
    torch.testing.assert_close(own, library)


def test_a_batch_of_one_step_is_normalised_by_running_statistics() -> None:
    norm = BatchNorm(4)
    row = torch.randn(1, 4)
    torch.testing.assert_close(norm(row), row / math.sqrt(1 + norm.eps))


@pytest.mark.parametrize("name", NORMS)
def test_a_normalised_layer_zeroes_the_padding(name: NormName) -> None:
    features, extent = extent_of([9, 3])
    layer = Downsample(8, 16, 3, normalisation=name)
    nn.init.normal_(
        next(parameter for key, parameter in layer.named_parameters() if key == "norm.bias")
    )
    assert not layer(features, extent)[~extent.mask].any()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(12, 5), (12, 5)),
        (nn.Conv1d(12, 12, 3, groups=12), (3, 3)),
        (nn.Conv1d(12, 24, 5, stride=2), (60, 60)),
        (nn.ConvTranspose1d(12, 6, 4, stride=4), (12, 24)),
    ],
)
def test_fans_count_groups_and_taps(
    module: nn.Linear | nn.Conv1d | nn.ConvTranspose1d, expected: tuple[int, int]
) -> None:
    assert fans(module) == expected


def test_kaiming_keeps_the_scale_of_a_signal_through_a_depthwise_convolution() -> None:
    conv = TemporalConv(512, 512, 3, groups=512)
    initialise([conv])
    out = conv(torch.randn(2, 100, 512).relu())
    assert 0.7 < out.square().mean() < 1.4


def test_a_fresh_head_makes_blank_less_likely_than_a_token() -> None:
    head = nn.Linear(64, 10)
    initialise_head(head, blank=3)
    assert head.bias.argmin() == 3
    assert head.bias[3] < -2
