"""What of a network is frozen, thrown away, or scaled out of sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pytest_overfit.finding import Finding
from pytest_overfit.findings.examine import check
from pytest_overfit.network.function_edits import kept_small
from pytest_overfit.network.network_edits import with_usual_eps
from tests.engine.subjects import bigru, clips

WIDTH, VOCABULARY = 24, 25


def found(build: Callable[[], nn.Module]) -> dict[str | None, Finding]:
    """What is found in a network, by the module that it is found in; these see one frame at a time,
    which is told of each.
    """

    def seeded(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build()

    findings = check(replace(bigru(), build=seeded), clips(6))
    return {one.module: one for one in findings if one.name != "order_blind"}


class Network(nn.Module):
    """Blocks of one width, and a head."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(WIDTH, VOCABULARY)

    def hidden(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.hidden(features)).log_softmax(-1).transpose(0, 1), frames


def layer() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())


class Block(nn.Module):
    """A mixing part and a part behind it, which may be thrown away."""

    def __init__(self, *, wasted: bool) -> None:
        super().__init__()
        self.wasted, self.mix, self.behind = wasted, layer(), layer()

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x)
        after = self.behind(mixed)
        return mixed if self.wasted else after


def frozen(network: nn.Module, *prefixes: str) -> nn.Module:
    for name, parameter in network.named_parameters():
        parameter.requires_grad = not name.startswith(prefixes)
    return network


def test_all_but_the_head_frozen_as_drawn_fails() -> None:
    finding = found(lambda: frozen(Network(layer(), layer()), "blocks"))["blocks"]
    assert (finding.name, finding.severity) == ("parameter_not_trained", "failure")
    assert "all but head" in finding.headline


def test_a_block_frozen_as_drawn_behind_one_that_learns_fails() -> None:
    finding = found(lambda: frozen(Network(layer(), layer()), "blocks.1"))["blocks.1.0"]
    assert (finding.name, finding.severity) == ("parameter_not_trained", "failure")


def test_a_frozen_trunk_in_front_of_what_learns_is_told() -> None:
    (finding,) = found(lambda: frozen(Network(layer(), layer()), "blocks.0")).values()
    assert (finding.name, finding.severity) == ("parameter_not_trained", "warning")


def test_weights_that_no_seed_draws_were_loaded_and_may_be_frozen() -> None:
    def loaded() -> nn.Module:
        network = frozen(Network(layer(), layer()), "blocks")
        with torch.no_grad():
            for weight in network.blocks.parameters():
                weight.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
        return network

    assert "parameter_not_trained" not in {one.name for one in found(loaded).values()}


def test_what_one_block_throws_away_and_another_uses_fails() -> None:
    finding = found(lambda: Network(Block(wasted=True), Block(wasted=False)))["blocks.0.behind"]
    assert (finding.name, finding.severity) == ("unused_module", "failure")
    assert finding.evidence == ("blocks.1.behind, its like, is used",)


def test_what_every_block_leaves_unused_is_told() -> None:
    findings = found(lambda: Network(Block(wasted=True), Block(wasted=True)))
    assert {one.severity for one in findings.values()} == {"warning"}


@pytest.mark.parametrize(("used", "severity"), [(1, "failure"), (2, "warning")])
def test_a_loop_that_ends_in_its_first_round_fails(used: int, severity: str) -> None:
    class Cut(Network):
        def hidden(self, x: Tensor) -> Tensor:
            for block in self.blocks[:used]:
                x = x + block(x)
            return x

    findings = found(lambda: Cut(layer(), layer(), layer()))
    assert {(one.name, one.severity) for one in findings.values()} == {("unused_module", severity)}


def test_a_gate_that_is_shut_is_named_for_its_zeros() -> None:
    class Shut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 2).relu()

    finding = found(lambda: Network(layer(), nn.Sequential(*layer(), Shut())))["blocks.1.2"]
    assert (finding.name, finding.severity) == ("dead_units", "failure")


def test_a_norm_whose_eps_outweighs_its_input_is_named_and_mended() -> None:
    def build() -> Network:
        return Network(*(nn.Sequential(nn.LayerNorm(WIDTH, 1e5), layer()) for _ in range(5)))

    class Stacked(Network):
        def hidden(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    finding = found(lambda: Stacked(*build().blocks))["blocks.0.0"]
    assert finding.name == "input_ignored"
    network = Stacked(*build().blocks)
    assert with_usual_eps(network)
    assert not with_usual_eps(network)


class SoftPlus(nn.Module):
    """By hand, so that it is infinite where its input is large."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(1 + torch.exp(100 * x))


def test_an_infinity_is_named_where_it_is_made_and_kept_small() -> None:
    def build() -> nn.Module:
        return Network(nn.Sequential(SoftPlus(), nn.Linear(WIDTH, WIDTH)))

    finding = found(build)["blocks.0.0"]
    assert finding.name == "non_finite_output"
    assert finding.headline.endswith("the output of exp in blocks.0.0 is not finite")
    plain = replace(bigru(), forward=lambda network, x, frames: (network(x), frames))
    for of, finite in ((plain, False), (kept_small(plain), True)):
        output, _ = of.forward(SoftPlus(), torch.ones(2, 3), torch.ones(2))
        assert bool(output.isfinite().all()) is finite


def test_a_state_that_grows_from_step_to_step_is_named_where_it_does() -> None:
    class Scan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            state, states = torch.zeros_like(x[:, 0]), []
            for step in x.unbind(1):
                state = 20 * state + step
                states.append(state)
            return torch.stack(states, 1)

    finding = found(lambda: Network(layer(), nn.Sequential(Scan(), nn.Linear(WIDTH, WIDTH))))[
        "blocks.1.0"
    ]
    assert finding.name == "exploding_signal"
    assert "numbers grow without bound in blocks.1.0" in finding.headline


def test_what_a_block_without_a_way_around_it_scales_away_is_put_there() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e-6 * x

    class Stacked(Network):
        def hidden(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    findings = found(
        lambda: Stacked(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), Scaled()) for _ in range(4)))
    )
    assert findings["blocks.0.1"].name == "input_ignored"


@pytest.mark.parametrize(("size", "severity"), [(2e-3, "warning"), (20.0, "failure")])
def test_padding_that_moves_an_output_which_says_nothing_is_told(
    size: float, severity: str
) -> None:
    class Mean(Network):
        """Adds the mean over all steps, padding included, to each; and says little, or much."""

        def hidden(self, x: Tensor) -> Tensor:
            return size * (super().hidden(x) / 20 + 5 * x.mean(1, keepdim=True))

    finding = next(
        one for one in found(lambda: Mean(layer())).values() if one.name == "padding_leak"
    )
    assert finding.severity == severity
