"""The teacher keeps its promises: size, length rule, indifference to padding and to batch mates."""

import pytest
import torch
from torch import Tensor

from model.extent import Extent
from model.i3d import I3DTeacher, Inception, MaxPool, create_i3d_teacher

TOKENS = 20
WIDTH = 1629
LENGTHS = (45, 61, 30, 7)


def parameters(hidden_dim: int) -> int:
    return sum(p.numel() for p in create_i3d_teacher(973, hidden_dim=hidden_dim).parameters())


def clips(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Padded with numbers that are not zero: what stands there must not matter."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, generator=generator), torch.tensor(
        LENGTHS
    )


@pytest.fixture(scope="module")
def teacher() -> I3DTeacher:
    """Small, in eval mode, its running statistics those of a batch."""
    torch.manual_seed(0)
    network = create_i3d_teacher(TOKENS, hidden_dim=32, feature_dim=WIDTH)
    with torch.no_grad():
        for _ in range(3):
            network(*clips(seed=1))
    return network.eval()


@pytest.mark.parametrize(("hidden_dim", "low", "high"), [(512, 26.5e6, 27.5e6), (256, 14e6, 16e6)])
def test_it_has_the_parameters_it_promises(hidden_dim: int, low: float, high: float) -> None:
    assert low <= parameters(hidden_dim) <= high


def test_hidden_dim_scales_every_layer_with_weights() -> None:
    small, large = (
        create_i3d_teacher(TOKENS, hidden_dim=hidden_dim, feature_dim=WIDTH)
        for hidden_dim in (32, 64)
    )
    sizes = {name: p.numel() for name, p in small.named_parameters()}
    for name, parameter in large.named_parameters():
        assert parameter.numel() > sizes[name] or name == "output_proj.bias", name
    assert parameters(256) > 3 * parameters(64)


def test_no_width_is_below_four_channels() -> None:
    assert all(
        p.shape[0] >= 4
        for p in create_i3d_teacher(TOKENS, hidden_dim=1, feature_dim=WIDTH).parameters()
    )


def test_padding_changes_nothing(teacher: I3DTeacher) -> None:
    features, frames = clips()
    with torch.no_grad():
        alone = [
            teacher(features[i : i + 1, :n], frames[i : i + 1])[0][:, 0]
            for i, n in enumerate(LENGTHS)
        ]
        padded = torch.cat([features, torch.full((len(features), 23, WIDTH), 9.0)], 1)
        together, steps = teacher(padded, frames)
    for i, expected in enumerate(alone):
        assert steps[i] == len(expected)
        torch.testing.assert_close(together[: steps[i], i], expected, atol=1e-4, rtol=0)


def test_batch_mates_change_nothing(teacher: I3DTeacher) -> None:
    features, frames = clips()
    others = features.clone()
    others[1:] = torch.randn(others[1:].shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        first, second = teacher(features, frames)[0], teacher(others, frames)[0]
    steps = teacher.steps(LENGTHS[0])
    torch.testing.assert_close(first[:steps, 0], second[:steps, 0], atol=1e-4, rtol=0)
    assert (first[:, 1] - second[:, 1]).abs().max() > 1e-2


def test_padding_changes_nothing_in_train_mode_either() -> None:
    network = create_i3d_teacher(TOKENS, hidden_dim=32, feature_dim=WIDTH)
    features, frames = clips()
    longer = torch.cat([features, torch.full((len(features), 16, WIDTH), 9.0)], 1)
    with torch.no_grad():
        (short, steps), (long, _) = network(features, frames), network(longer, frames)
    for i, n in enumerate(steps.tolist()):
        torch.testing.assert_close(short[:n, i], long[:n, i], atol=1e-4, rtol=0)


@pytest.mark.parametrize("frames", [*range(1, 10), 176])
def test_the_length_rule_is_what_forward_does(teacher: I3DTeacher, frames: int) -> None:
    with torch.no_grad():
        log_probs, steps = teacher(torch.randn(1, frames, WIDTH), torch.tensor([frames]))
    assert teacher.steps(frames) == len(log_probs) == steps.item() == -(-frames // 4)


@pytest.mark.parametrize(("layer", "channels"), [(MaxPool(), 3), (MaxPool(stride=2), 3)])
def test_pooling_never_sees_padding(layer: MaxPool, channels: int) -> None:
    x = -torch.rand(2, 9, channels) - 1
    x[0, 5:] = 0
    extent = Extent.of(torch.tensor([5, 9]), x)
    out, after = layer(x, extent), extent.after(layer)
    assert out.shape[1] == after.length
    assert (out[after.mask] <= -1).all()
    assert (out[~after.mask] == 0).all()


def test_an_inception_block_puts_its_four_branches_side_by_side(teacher: I3DTeacher) -> None:
    block = teacher.blocks[0]
    assert isinstance(block, Inception)
    x = torch.rand(1, 6, block.points.linear.in_features)
    extent = Extent.of(torch.tensor([6]), x)
    out = block(x, extent)
    pooled = block.pool_point(block.pool(x, extent), extent)
    torch.testing.assert_close(out[..., -pooled.shape[-1] :], pooled)
    torch.testing.assert_close(
        out[..., : block.split[0]], block.points(x, extent)[..., : block.split[0]]
    )


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = create_i3d_teacher(TOKENS, hidden_dim=32, feature_dim=WIDTH)
    log_probs, steps = network(*clips())
    targets = torch.randint(1, TOKENS, (len(LENGTHS), 2))
    torch.nn.functional.ctc_loss(
        log_probs, targets, steps, torch.full_like(steps, 2), zero_infinity=True
    ).backward()
    assert [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_outputs_are_log_probabilities(teacher: I3DTeacher) -> None:
    with torch.no_grad():
        log_probs, _ = teacher(*clips())
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))


def test_features_that_are_no_landmarks_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 1629"):
        create_i3d_teacher(TOKENS, feature_dim=100)
