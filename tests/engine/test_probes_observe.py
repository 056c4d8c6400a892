"""What is read of each module, and of the way from the features to the output."""

import math
import timeit

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit.network import FEATURES, first_drop, main_path, observe, rows_for_people
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import collate
from pytest_overfit.training import Training
from tests.engine.networks import (
    DIM,
    MODES,
    SOUND,
    WIDTH,
    Conv,
    Crnn,
    Folded,
    Net,
    OverTime,
    Recurrent,
    clips,
    detected,
    observed,
    subject,
)


def test_leaves_the_network_as_it_was() -> None:
    described = subject(SOUND["TCN with BatchNorm"])
    network = described.fresh(feature_dim=DIM, seed=0)
    network.get_submodule("body.layers.0").eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes, random = [module.training for module in network.modules()], torch.get_rng_state()
    for mode in MODES:
        observe(described, network, described.take(4), mode=mode)
    torch.testing.assert_close(dict(network.state_dict()), state, rtol=0, atol=0)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )


def test_dropout_is_no_signal() -> None:
    def build() -> nn.Module:
        return Net(nn.Sequential(nn.Linear(DIM, WIDTH), nn.Dropout(0.9), nn.Linear(WIDTH, WIDTH)))

    train, still = (observed(build, mode) for mode in MODES)
    assert [o.between_sample_share for o in train] == [o.between_sample_share for o in still]


def test_gates_and_parts_of_residual_blocks_are_off_the_main_path() -> None:
    path = [o.module for o in main_path(observed(SOUND["TCN with BatchNorm"], "eval"))]
    first = ["body.layers.0.conv", "body.layers.0.norm", "body.layers.0.activation"]
    assert path == [*first, "body.layers.1", "body.layers.2", "body.layers.3", "body", "head"]


def test_parallel_encoders_hang_on_the_features_and_meet_later() -> None:
    observations = observed(Folded, "eval")
    by_name = {o.module: index for index, o in enumerate(observations)}
    assert (
        observations[by_name["left"]].fed_by == observations[by_name["right"]].fed_by == (FEATURES,)
    )
    assert observations[by_name["lstm"]].fed_by == (by_name["norms.0"], by_name["norms.1"])
    assert [o.module for o in main_path(observations)] == ["lstm", "head"]
    assert [o.module for o in rows_for_people(observations)] == [
        "left",
        "norms.0",
        "right",
        "norms.1",
        "lstm",
        "head",
    ]


def test_steps_follow_strides() -> None:
    observations = {o.module: o for o in observed(Crnn, "eval")}
    assert (observations["convs.0"].steps_out, observations["convs.3"].steps_out) == (55, 27)


def test_one_module_called_twice_is_observed_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = (
                nn.Linear(DIM, WIDTH),
                nn.Linear(WIDTH, WIDTH),
                nn.ReLU(),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.second(self.relu(self.first(x))))  # type: ignore[no-any-return]

    named = [(o.module, o.call) for o in main_path(observed(lambda: Net(Twice()), "eval"))]
    assert named == [
        ("body.first", 0),
        ("body.relu", 0),
        ("body.second", 0),
        ("body.relu", 1),
        ("head", 0),
    ]


def test_activations_that_are_functions_are_observed_too() -> None:
    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(DIM, WIDTH), nn.Linear(WIDTH, WIDTH)])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](F.relu(self.layers[0](x))).sigmoid()  # type: ignore[no-any-return]

    path = main_path(observed(lambda: Net(Functions()), "eval"))
    assert [o.module for o in path] == [
        "body.layers.0",
        "body.relu()",
        "body.layers.1",
        "body",
        "head",
    ]
    assert path[1].dead_share == 0
    assert path[2].through == ("relu",)


def test_writing_into_an_output_does_not_hide_its_module() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.norm = nn.Linear(DIM, WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.project(x)
            hidden[:, -2:] = 0
            return self.norm(hidden)  # type: ignore[no-any-return]

    observations = observed(lambda: Net(Writes()), "eval")
    assert [o.module for o in main_path(observations)] == ["body.project", "body.norm", "head"]
    assert observations[0].gradient_norm is not None
    assert not detected(observations)


def test_a_network_may_set_its_inputs_own_gradient_flag() -> None:
    class Flags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(DIM, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = x[..., :]
            x.requires_grad = True
            return self.project(x)  # type: ignore[no-any-return]

    observations = observed(lambda: Net(Flags()), "train")
    assert [o.module for o in main_path(observations)] == ["body.project", "head"]
    assert not detected(observations)


def test_gradients_are_those_of_the_loss() -> None:
    described = subject(Recurrent)
    network = described.fresh(feature_dim=DIM, seed=0)
    samples = described.take(4)
    head = next(o for o in observe(described, network, samples, mode="eval") if o.module == "head")
    training = Training(described, samples, Recipe(clip=None), seed=0)
    training.network.eval()
    training.loss(collate(samples)).backward()
    gradients = [
        parameter.grad for parameter in training.network.get_submodule("head").parameters()
    ]
    expected = math.sqrt(
        sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
    )
    assert head.parameter_gradient_norm == pytest.approx(expected, rel=1e-4)


def test_one_clip_is_observed_without_comparison() -> None:
    observations = observed(Recurrent, "train", samples=clips(1))
    assert all(o.between_sample_share is None for o in observations)
    assert first_drop(observations) is None


def test_an_observation_costs_a_few_training_steps() -> None:
    samples = clips(10, frames=(150, 176))
    described = subject(
        lambda: Net(OverTime(*(Conv(DIM if k == 0 else 256, 256) for k in range(6))), 256), samples
    )
    training = Training(described, samples, Recipe(), seed=0)
    list(training.advance(1))
    step = min(timeit.repeat(lambda: list(training.advance(1)), number=1, repeat=3))
    once = min(
        timeit.repeat(
            lambda: observe(described, training.network, samples, mode="train"), number=1, repeat=3
        )
    )
    assert once < 6 * step
