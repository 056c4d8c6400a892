"""NetworkEdit: each operation does what it says, tells whether there was something to do, and
leaves a network that learns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pytest_overfit.network import left_out, network_edits
from pytest_overfit.network.network_edits import CannotEdit, NetworkEdit
from pytest_overfit.subject import collate
from tests.engine.subjects import DIM, BiGRU, TemporalConv, Transformer, bigru, clips, subject

V = 25


def net(**keywords: object) -> BiGRU:
    torch.manual_seed(0)
    return BiGRU(DIM, V, **keywords)  # type: ignore[arg-type]


def loss_of(network: nn.Module) -> Tensor:
    batch = collate(clips(2))
    output, steps = network(batch.features, batch.frames)
    return torch.nn.functional.ctc_loss(
        output, batch.targets.clamp(min=0), steps, batch.target_lengths
    )


def learns(network: nn.Module, steps: int = 12) -> bool:
    """Whether a few optimiser steps lower the loss well."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(network)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] < 0.9 * losses[0]


class Squeezed(BiGRU):
    """A BiGRU with a bottleneck of one channel."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.encoder.append(nn.Linear(48, 1))
        self.encoder.append(nn.Linear(1, 48))


OPERATIONS: dict[str, tuple[Callable[[], nn.Module], NetworkEdit]] = {
    "reset": (net, network_edits.reset),
    "fan_in": (net, network_edits.fan_in),
    "xavier": (net, network_edits.xavier),
    "LayerNorm for BatchNorm": (net, network_edits.layer_norm),
    "no BatchNorm": (net, network_edits.without_batch_norm),
    "lively BatchNorm": (net, network_edits.lively_batch_norm),
    "no dropout": (net, network_edits.without_dropout),
    "no bias in the head": (net, network_edits.zero_head_bias),
    "bypass": (net, left_out.bypass("norm")),
    "open activations": (
        lambda: net(activation=nn.Sigmoid),
        network_edits.open_activations("activation"),
    ),
    "reinitialise": (net, network_edits.reinitialise("conv")),
    "smaller stride": (lambda: TemporalConv(DIM, V), network_edits.divide_stride("stem", 2)),
    "widen": (lambda: Squeezed(DIM, V), network_edits.widen(64)),
}


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "smaller stride"])
def test_an_operated_network_learns(name: str) -> None:
    build, operation = OPERATIONS[name]
    network = build()
    with torch.no_grad():
        assert operation(network)
    assert learns(network)


@pytest.mark.parametrize(
    ("network", "operation"),
    [
        (lambda: TemporalConv(DIM, V), network_edits.without_dropout),
        (lambda: Transformer(DIM, V), network_edits.layer_norm),
        (lambda: Transformer(DIM, V), network_edits.lively_batch_norm),
        (net, network_edits.unfrozen),
        (net, network_edits.widen(64)),
        (net, left_out.bypass("nothing")),
        (net, network_edits.open_activations("encoder.2")),
        (net, network_edits.divide_stride("rnn", 2)),
    ],
)
def test_an_operation_says_when_there_is_nothing_to_do(
    network: Callable[[], nn.Module], operation: NetworkEdit
) -> None:
    assert not operation(network())


def test_a_network_without_what_is_operated_on_cannot_be_built() -> None:
    edited = network_edits.edited(
        subject(TemporalConv, "convolutions"), network_edits.without_dropout
    )
    with pytest.raises(CannotEdit, match="nothing in convolutions"):
        edited.fresh(feature_dim=DIM, seed=0)


def test_an_operated_subject_builds_the_same_network_each_time() -> None:
    edited = network_edits.edited(bigru(), network_edits.xavier)
    first, second = (edited.fresh(feature_dim=DIM, seed=3) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(64, 128),
        nn.Conv1d(64, 128, 5),
        nn.Conv1d(64, 64, 5, groups=64),
        nn.ConvTranspose1d(64, 64, 4, 4),
        nn.ConvTranspose1d(64, 64, 4, 2),
    ],
)
def test_fan_in_keeps_the_scale_of_a_rectified_signal(layer: nn.Module) -> None:
    torch.manual_seed(0)
    network_edits.fan_in(layer)
    x = torch.randn(8, 64, 400).relu()
    out = layer(x.transpose(1, 2)) if isinstance(layer, nn.Linear) else layer(x)
    assert out.square().mean().item() == pytest.approx(2 * float(x.square().mean()), rel=0.35)


def test_no_dropout_is_left_inside_recurrent_layers_or_attention() -> None:
    network = nn.ModuleList(
        [nn.LSTM(8, 8, 2, dropout=0.4), nn.MultiheadAttention(8, 2, dropout=0.3), nn.Dropout(0.5)]
    )
    assert network_edits.without_dropout(network)
    assert [network[0].dropout, network[1].dropout, network[2].p] == [0.0, 0.0, 0.0]


def test_frozen_parameters_are_unfrozen() -> None:
    network = net()
    network.head.requires_grad_(False)
    assert network_edits.unfrozen(network)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_layer_norm_stands_over_channels() -> None:
    network = net(norm=nn.BatchNorm1d)
    network_edits.layer_norm(network)
    out = network.norm(torch.randn(2, 48, 7))
    assert torch.allclose(out.mean(1), torch.zeros(2, 7), atol=1e-5)


def test_a_stride_is_divided_down_to_one() -> None:
    network = nn.Sequential(
        nn.Conv1d(4, 4, 3, stride=6), nn.MaxPool1d(2), nn.ConvTranspose1d(4, 4, 2, 2)
    )
    outer = nn.ModuleDict({"inner": network})
    assert network_edits.divide_stride("inner", 4)(outer)
    assert (network[0].stride, network[1].stride, network[2].stride) == ((1,), 1, (2,))


class Listed(nn.Module):
    """Layers that torch does not see, in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(3, 3), "no layer"]
        self.named = {"a": nn.Linear(3, 2)}
        self.head = nn.Linear(2, 2)


def test_layers_in_plain_lists_and_dicts_are_registered_once() -> None:
    network = nn.Sequential(Listed())
    assert network_edits.registered(network)
    known = {id(parameter) for parameter in network.parameters()}
    first, *_ = network[0].layers
    assert len(known) == 6
    assert {id(first.weight), id(network[0].named["a"].bias)} <= known
    assert not network_edits.registered(nn.Sequential(nn.Linear(2, 2)))


def test_the_head_is_the_last_linear_layer() -> None:
    assert network_edits.head_name(net()) == "head"
    assert network_edits.head_name(nn.Conv1d(2, 2, 1)) is None


def test_a_bottleneck_is_widened_with_its_reader() -> None:
    network = Squeezed(DIM, V)
    assert network_edits.widen(64)(network)
    assert (network.encoder[4].out_features, network.encoder[5].in_features) == (64, 64)


def test_operations_keep_what_they_do_not_change() -> None:
    plain, edited = net(), net()
    partial(network_edits.reinitialise("conv"))(edited)
    assert torch.equal(plain.head.weight, edited.head.weight)
    assert not torch.equal(plain.conv.conv.weight, edited.conv.conv.weight)


def test_all_layers_that_read_the_axes_alike_are_turned_together() -> None:
    network = nn.ModuleList(nn.GRU(4, 4, batch_first=first) for first in (True, False, False))
    assert network_edits.other_axes_of_kind("1")(network)
    assert [layer.batch_first for layer in network] == [True, True, True]
    assert not network_edits.other_axes_of_kind("0")(nn.ModuleList([nn.GRU(4, 4)]))
