"""Which axis counts clips and which counts steps, whatever a module does with them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pytest_overfit.network.layout import Layout, find_layouts, padded
from pytest_overfit.network.recorder import watched
from pytest_overfit.network.signal import valid_mask
from pytest_overfit.subject import Batch, Sample, Subject, collate

DIM, LENGTH = 6, 12


class Shaped(nn.Module):
    """Puts (B, T, C) into a shape, hands it through `inner`, and takes it out again."""

    def __init__(
        self, into: Callable[[Tensor, Tensor], object], out: Callable[[object, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.into, self.out, self.inner = into, out, nn.Identity()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        out = self.out(self.inner(self.into(features, frames)), features)
        return out.log_softmax(-1).transpose(0, 1), frames


def tensor(x: object) -> Tensor:
    assert isinstance(x, Tensor)
    return x


def inside(x: Tensor, frames: Tensor) -> Tensor:
    return torch.arange(x.shape[1])[None] < frames[:, None]


SHAPES: dict[str, tuple[Callable[[Tensor, Tensor], object], Callable[[object, Tensor], Tensor]]] = {
    "(B, T, C)": (lambda x, _: x, lambda y, _: tensor(y)),
    "(B, C, T)": (lambda x, _: x.transpose(1, 2), lambda y, _: tensor(y).transpose(1, 2)),
    "(T, B, C)": (lambda x, _: x.transpose(0, 1), lambda y, _: tensor(y).transpose(0, 1)),
    "(C, B, T)": (lambda x, _: x.permute(2, 0, 1), lambda y, _: tensor(y).permute(1, 2, 0)),
    "(B * T, C)": (lambda x, _: x.flatten(0, 1), lambda y, x: tensor(y).view_as(x)),
    "(T * B, C)": (
        lambda x, _: x.transpose(0, 1).flatten(0, 1),
        lambda y, x: tensor(y).view(x.shape[1], len(x), -1).transpose(0, 1),
    ),
    "(B * heads, T, C / heads)": (
        lambda x, _: x.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1),
        lambda y, x: tensor(y).unflatten(0, (len(x), 2)).transpose(1, 2).flatten(2),
    ),
    "(B, 1, C, T)": (
        lambda x, _: x.transpose(1, 2)[:, None],
        lambda y, _: tensor(y)[:, 0].transpose(1, 2),
    ),
    "tuple": (lambda x, _: (x, (x[:, 0], x[:, 1])), lambda y, _: y[0]),  # type: ignore[index]
    "mapping": (lambda x, _: {"mask": x > 0, "x": x}, lambda y, _: y["x"]),  # type: ignore[index]
    "packed": (
        lambda x, frames: pack_padded_sequence(x, frames, batch_first=True, enforce_sorted=False),
        lambda y, _: (
            pad_packed_sequence(y, batch_first=True)[0]
            if isinstance(y, PackedSequence)
            else torch.empty(0)
        ),
    ),
}


def described(shape: str) -> tuple[Subject, Batch]:
    generator = torch.Generator().manual_seed(0)
    samples = [
        Sample(
            name=f"{n}",
            features=torch.randn(n, DIM, generator=generator),
            target=torch.tensor([1, 2, 1]),
        )
        for n in (20, 24, 17, 21)
    ]
    subject = Subject(
        name=shape,
        build=lambda **_: Shaped(*SHAPES[shape]),
        samples=samples,
        vocabulary=list("-abcde"),
    )
    return subject, collate(samples)


@pytest.mark.parametrize("shape", SHAPES)
def test_finds_clips_and_steps(shape: str) -> None:
    subject, batch = described(shape)
    network = Shaped(*SHAPES[shape]).eval()
    layout = find_layouts(subject, network, batch)["inner", 0][1]
    assert layout is not None
    arranged = layout.arrange(
        tensor(padded(SHAPES[shape][0](batch.features, batch.frames))), batch.frames
    )
    assert arranged is not None
    torch.testing.assert_close(arranged, batch.features)


def test_pads_rows_of_valid_frames() -> None:
    _, batch = described("(B * T, C)")
    layout = Layout(clips=0, steps=None, each=24, folded=True)
    arranged = layout.arrange(batch.features[inside(batch.features, batch.frames)], batch.frames)
    torch.testing.assert_close(arranged, batch.features)


def test_pads_rows_of_valid_steps_after_a_stride() -> None:
    frames = torch.tensor([20, 24, 17])
    steps = (frames + 1) // 2
    rows = torch.randn(int(steps.sum()), 3)
    arranged = Layout(clips=0, steps=None, each=12, folded=True).arrange(rows, frames)
    assert arranged is not None
    assert arranged.shape == (3, 12, 3)
    torch.testing.assert_close(arranged[2, :9], rows[-9:])


def test_leaves_what_has_no_clips() -> None:
    subject, batch = described("(B, T, C)")
    network = Shaped(lambda x, _: torch.randn(x.shape[1], 4), lambda _, x: x)
    assert find_layouts(subject, network, batch)["inner", 0] == (None, None)


def test_leaves_a_shape_it_has_not_seen() -> None:
    assert (
        Layout(clips=0, steps=None, each=12, folded=True).arrange(
            torch.randn(7, 3), torch.tensor([24, 24])
        )
        is None
    )
    assert Layout(clips=0, steps=2).arrange(torch.randn(2, 3), torch.tensor([24, 24])) is None


def test_a_pooled_axis_stays_the_step_axis() -> None:
    subject, batch = described("(B, C, T)")
    network = Shaped(
        lambda x, _: x.transpose(1, 2), lambda y, x: tensor(y).mean(2)[:, None].expand_as(x)
    )
    network.inner = nn.AdaptiveAvgPool1d(5)  # type: ignore[assignment]
    layout = find_layouts(subject, network, batch)["inner", 0][1]
    assert layout == Layout(clips=0, steps=2)


def test_counts_calls() -> None:
    inner = nn.ReLU()
    network = nn.Sequential(inner, inner)
    seen: list[tuple[str, int]] = []
    with watched(network, lambda call, *_: seen.append(call)):
        network(torch.zeros(2))
    assert seen == [("0", 0), ("0", 1)]
    assert not inner._forward_hooks
    assert not inner._forward_pre_hooks


def test_valid_steps_are_proportional() -> None:
    assert valid_mask(torch.tensor([24, 17]), 12, 24).sum(1).tolist() == [12, 9]
    assert valid_mask(torch.tensor([24, 17]), 1, 24).sum(1).tolist() == [1, 1]


def test_steps_are_found_in_a_network_for_one_length() -> None:
    class OneLength(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.over_time = nn.Conv1d(LENGTH, LENGTH, 3, padding=1)
            self.head = nn.Linear(DIM, 4)

        def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(self.over_time(x)).log_softmax(-1).transpose(0, 1), frames

    batch = collate(
        [
            Sample(name=str(i), features=torch.randn(LENGTH, DIM), target=torch.tensor([1]))
            for i in range(3)
        ]
    )
    subject = Subject(
        name="one length",
        build=lambda vocab_size, feature_dim, seed: OneLength(),
        samples=[],
        vocabulary=list("_abc"),
    )
    layouts = find_layouts(subject, OneLength().eval(), batch)
    assert layouts["over_time", 0] == (Layout(clips=0, steps=1), Layout(clips=0, steps=1))
