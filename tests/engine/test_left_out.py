"""Modules that are left out, and what is put in their place."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pytest_overfit.network import left_out, network_edits
from pytest_overfit.network.network_edits import CannotEdit
from tests.engine.subjects import DIM, BiGRU, Transformer, clips, subject

V = 25


def shapes(given: Sequence[int], gave: Sequence[int]) -> left_out.Shapes:
    """As of a clip of any length."""
    return left_out.Shapes(tuple(given), tuple(gave), tuple(gave))


def test_what_is_bypassed_hands_on_its_input() -> None:
    network = BiGRU(DIM, V)
    left_out.bypass("encoder.2")(network)
    x = torch.randn(2, 3, 5)
    assert network.encoder[2](x) is x
    assert network.encoder[2](x, torch.zeros(2), mask=None) is x


@pytest.mark.parametrize(
    "layer", [nn.GRU(5, 7, batch_first=True), nn.MultiheadAttention(5, 1, batch_first=True)]
)
def test_what_gives_a_pair_is_left_out_as_one(layer: nn.Module) -> None:
    network = nn.ModuleDict({"layer": layer})
    assert left_out.bypass("layer")(network)
    x = torch.randn(2, 3, 5)
    assert network["layer"](query=x, key=x, value=x) == (x, None)


def test_blocks_that_keep_the_shape_are_found_and_left_out() -> None:
    network = Transformer(DIM, V)
    found = network_edits.repeated_blocks(subject(Transformer, "transformer"), network, clips(1)[0])
    assert found == ["encoder.layers.0", "encoder.layers.1"]
    assert left_out.without(found)(network)
    assert [type(layer) for layer in network.encoder.layers] == [nn.Identity, nn.Identity]
    assert not left_out.without([])(network)


def test_blocks_give_what_they_were_given_as_well() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert left_out.with_skips(["1"])(network)
    x = torch.ones(1, 2)
    between = network[0](x)
    assert torch.equal(network(x), network[1].forward(between) + between)
    assert not left_out.with_skips([])(network)


@pytest.mark.parametrize(
    ("layer", "given"),
    [
        (nn.Linear(5, 7), (2, 9, 5)),
        (nn.GRU(5, 7, batch_first=True), (2, 9, 5)),
        (nn.Conv1d(5, 7, 3, stride=2), (2, 5, 9)),
        (nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU()), (2, 1, 16, 21)),
        (nn.MaxPool1d(3), (2, 5, 10)),
        (nn.Unflatten(1, (1, 5)), (2, 5, 9)),
    ],
)
def test_a_linear_layer_stands_in_with_the_shape_of_what_stood_there(
    layer: nn.Module, given: tuple[int, ...]
) -> None:
    x = torch.randn(given, requires_grad=True)
    stood = layer(x)
    network = nn.ModuleDict({"layer": layer})
    gave = stood[0] if isinstance(stood, tuple) else stood
    assert left_out.linear_instead({"layer": shapes(given, gave.shape)})(network)
    for frames in (given[-1], given[-1] + 3) if isinstance(layer, nn.Conv1d) else given[-1:]:
        longer = torch.randn(*given[:-1], frames)
        out, asked = network["layer"](longer), layer(longer)
        assert type(out) is type(asked)
        out, asked = (each[0] if isinstance(each, tuple) else each for each in (out, asked))
        assert out.shape == asked.shape
        assert not torch.equal(out, asked)
    out = network["layer"](x)
    (out[0] if isinstance(out, tuple) else out).sum().backward()
    assert x.grad is not None
    assert all(own.grad is None for own in layer.parameters()), "asked for its shape alone"


@pytest.mark.parametrize(
    "stands_in",
    [left_out.bypass("layer"), left_out.linear_instead({"layer": shapes((2, 9, 5), (2, 9, 14))})],
)
def test_what_stands_in_answers_for_what_stood_there(stands_in: network_edits.NetworkEdit) -> None:
    layer = nn.GRU(5, 7, batch_first=True, bidirectional=True)
    network = nn.ModuleDict({"layer": layer})
    stands_in(network)
    network["layer"].flatten_parameters()  # type: ignore[operator]
    assert network["layer"].hidden_size == 7
    left = {id(parameter) for parameter in network.parameters()}
    assert left.isdisjoint(id(parameter) for parameter in layer.parameters()), "left out"
    with pytest.raises(AttributeError, match="no_such_thing"):
        network["layer"].no_such_thing  # noqa: B018


class Spectrum(nn.Module):
    """The spectra of pieces of sound."""

    def __init__(self, *, features_last: bool) -> None:
        super().__init__()
        self.features_last = features_last

    def forward(self, sound: Tensor) -> Tensor:
        spectra = torch.stft(sound, 16, 8, return_complex=True, window=torch.ones(16)).abs()
        return spectra.transpose(1, 2) if self.features_last else spectra


@pytest.mark.parametrize("features_last", [True, False])
def test_a_linear_layer_stands_in_for_what_makes_frames_of_sound(*, features_last: bool) -> None:
    network = nn.ModuleDict({"layer": Spectrum(features_last=features_last)})
    layer, sound = network["layer"], torch.randn(2, 80)
    made = left_out.Shapes((2, 80), tuple(layer(sound).shape), tuple(layer(sound[:, :60]).shape))
    assert left_out.linear_instead({"layer": made})(network)
    for longer in (sound, torch.randn(3, 123)):
        assert network["layer"](longer).shape == layer(longer).shape
    changed = sound.clone()
    changed[:, 30] += 1
    moved = (network["layer"](changed) != network["layer"](sound)).any(2 if features_last else 1)
    assert moved[0].nonzero().flatten().tolist() == [30 // (80 // 11)]


class Counting(nn.Module):
    """A convolution that gives the steps of each clip as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(5, 7, 3, stride=2, padding=1)

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), (frames + 1) // 2


def test_what_a_module_gives_besides_is_given_still() -> None:
    network = nn.ModuleDict({"layer": Counting()})
    x, frames = torch.randn(2, 5, 9), torch.tensor([9, 4])
    stood, _ = network["layer"](x, frames)
    assert left_out.linear_instead({"layer": shapes(x.shape, stood.shape)})(network)
    out, steps = copy.deepcopy(network)["layer"](x, frames=frames)
    assert (out.shape, steps.tolist()) == (stood.shape, [5, 2])


def test_a_linear_layer_reads_each_step_alone() -> None:
    layer = nn.Conv1d(5, 7, 5, stride=2)
    network = nn.ModuleDict({"layer": layer})
    x = torch.randn(1, 5, 21)
    left_out.linear_instead({"layer": shapes(x.shape, layer(x).shape)})(network)
    out, changed = network["layer"](x), x.clone()
    changed[:, :, 8] += 1
    moved = (network["layer"](changed) != out).any(1)[0]
    assert moved.nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize(
    ("given", "gave", "why"),
    [
        ((2, 80), (2, 9, 7), "other axes"),
        ((2, 9, 5), (2, 18, 7), "more steps"),
    ],
)
def test_what_no_linear_layer_can_stand_in_for(
    given: tuple[int, ...], gave: tuple[int, ...], why: str
) -> None:
    with pytest.raises(CannotEdit, match=why):
        left_out.linear_instead({"0": shapes(given, gave)})(nn.Sequential(nn.Identity()))


class Scan(nn.Module):
    """Holds one of its kind."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_namesakes_in_other_blocks_are_left_out_and_no_others() -> None:
    def block() -> nn.ModuleDict:
        return nn.ModuleDict({"deep": nn.Linear(2, 3), "scale": nn.Linear(3, 3)})

    network = nn.ModuleList([block(), block()])
    assert left_out.with_its_like(left_out.bypass)("0.scale")(network)
    kinds = [type(one[name]) for one in network for name in ("deep", "scale")]  # type: ignore[index, union-attr]
    assert kinds == [nn.Linear, left_out.HandedOn] * 2


def test_all_of_a_class_are_left_out_the_outermost_alone() -> None:
    network = nn.Sequential(Scan(Scan()), nn.ReLU(), Scan())
    assert left_out.with_its_like(left_out.bypass)("2")(network)
    x = torch.ones(1, 2)
    assert torch.equal(network(x), x)
    assert not left_out.with_its_like(left_out.bypass)("0")(nn.Sequential(Scan(), nn.ReLU()))
    apart = nn.ModuleDict(
        {"enter": nn.ModuleList([Scan()]), "end": nn.ModuleDict({"scan": Scan()})}
    )
    assert left_out.alike(apart, "enter.0") == ("enter.0", "end.scan")


def test_layers_of_torch_s_are_alike_beside_each_other_alone() -> None:
    network = nn.ModuleDict(
        {"stack": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "head": nn.Linear(2, 2)}
    )
    assert left_out.alike(network, "stack.0") == ("stack.0", "stack.1")
    assert left_out.alike(network, "head") == ()


@pytest.mark.parametrize(
    ("layer", "axis"), [(nn.Linear(5, 5), 2), (nn.Conv1d(9, 9, 1), 1), (nn.Identity(), 2)]
)
def test_what_a_module_is_given_is_normalised_however_small(layer: nn.Module, axis: int) -> None:
    seen: list[Tensor] = []
    network = nn.ModuleDict({"layer": layer})
    given = torch.randn(2, 9, 5) * 1e-4
    assert left_out.normed_before("layer")(network)
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    layer(given)
    assert seen[-1].var(axis, correction=0).allclose(torch.ones(()), atol=1e-2)
    assert seen[-1].mean(axis).abs().max() < 1e-2
    with pytest.raises(CannotEdit, match="no features"):
        layer(torch.ones(2, 3, dtype=torch.long))


def test_what_blocks_are_given_is_normalised_before_each_of_them() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.mix(1e-4 * x)
            return out

    network, seen = nn.Sequential(Block(), Block(), nn.Linear(5, 2)), list[Tensor]()
    assert left_out.with_its_like(left_out.normed_before)("0.mix")(network)
    for block in network[:2]:
        block.mix.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.randn(2, 9, 5))
    assert [round(float(given.detach().var(-1, correction=0).mean()), 1) for given in seen] == [
        1.0,
        1.0,
    ]
    assert not left_out.with_its_like(left_out.normed_before)("2")(network)
