"""Rewiring: what a subject feeds its network, makes of its output or lets gradients pass is
changed, and the network left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit.findings.examine import check
from pytest_overfit.network import function_edits, subject_edits
from pytest_overfit.network.network_edits import CannotEdit
from pytest_overfit.subject import Subject, collate
from tests.engine.faults import FAULTS
from tests.engine.planting import fed, forwarded, hooked, rebuilt
from tests.engine.subjects import DIM, HEALTHY, bigru, clips

PLANTS = {fault.name: fault.plant for fault in FAULTS}
BATCH = collate(clips(3))


def run(subject: Subject, *, train: bool = False) -> tuple[Tensor, Tensor]:
    network = subject.fresh(feature_dim=DIM, seed=0).train(train)
    return subject.log_probs(network, BATCH.features, BATCH.frames)


MENDS: dict[str, Callable[[Subject], Subject]] = {
    "ctc-softmax": subject_edits.logarithms,
    "ctc-softmax-twice": subject_edits.logarithms,
    "ctc-logits": subject_edits.normalised,
    "head-relu": subject_edits.from_head,
    "net-batch-mean": subject_edits.from_head,
    "ctc-axes-output": subject_edits.other_layout,
    "ctc-axes-square": subject_edits.one_by_one,
    "ctc-input-lengths-max": subject_edits.counted_steps,
    "ctc-input-lengths": subject_edits.counted_steps,
    "data-padding": subject_edits.one_by_one,
    "net-detach": function_edits.undetached,
    "net-dropout-in-eval": function_edits.undropped,
    "net-columns-ignored": subject_edits.plainly_called,
    "net-frames-ignored": subject_edits.plainly_called,
}


@pytest.mark.parametrize("fault", MENDS)
def test_it_takes_the_fault_away(fault: str) -> None:
    faulty = PLANTS[fault](bigru())
    assert check(faulty, clips(4))
    assert check(MENDS[fault](faulty), clips(4)) == ()


@pytest.mark.parametrize(
    "change",
    [
        subject_edits.normalised,
        subject_edits.from_head,
        function_edits.undetached,
        subject_edits.counted_steps,
        function_edits.undropped,
    ],
)
@pytest.mark.parametrize("name", HEALTHY)
def test_a_sound_subject_gives_what_it_gave(
    change: Callable[[Subject], Subject], name: str
) -> None:
    subject = HEALTHY[name]()
    before, steps = run(subject)
    after, again = run(change(subject))
    assert torch.equal(steps, again)
    assert torch.allclose(before, after, atol=1e-5)


def test_gradients_pass_through_detach_data_and_no_grad() -> None:
    def cut(x: Tensor) -> Tensor:
        with torch.no_grad():
            return F.relu(x.detach().data) * 2

    subject = hooked("encoder", cut)(bigru())
    for one, reached in ((subject, False), (function_edits.undetached(subject), True)):
        network = one.fresh(feature_dim=DIM, seed=0)
        one.log_probs(network, BATCH.features, BATCH.frames)[0].sum().backward()
        assert (network.get_submodule("encoder.0").weight.grad is not None) == reached


def test_probabilities_are_told_from_logarithms() -> None:
    with pytest.raises(CannotEdit, match="no probabilities"):
        run(subject_edits.logarithms(bigru()))


def test_a_network_without_a_layer_of_the_vocabulary_is_told() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Parameter(torch.randn(25, DIM))

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return (features @ self.words.T).log_softmax(-1).transpose(0, 1), frames

    subject = replace(bigru(), build=lambda vocab_size, feature_dim, seed: Tied())
    with pytest.raises(CannotEdit, match="no layer of bigru puts out 25 numbers"):
        run(subject_edits.from_head(subject))


def test_frames_fed_several_times_make_as_many_more_steps() -> None:
    assert run(subject_edits.slower(bigru(), 4))[1].tolist() == (BATCH.frames * 2).tolist()


def test_only_a_forward_of_its_own_can_be_left_out() -> None:
    with pytest.raises(CannotEdit):
        subject_edits.plainly_called(bigru())
    assert torch.equal(
        run(subject_edits.plainly_called(fed(bigru(), lambda x: x * 0)))[0], run(bigru())[0]
    )


def test_steps_are_counted_in_eval_mode_and_the_network_left_in_train_mode() -> None:
    subject = subject_edits.counted_steps(
        forwarded(bigru(), lambda out, steps, _: (out, steps // 3))
    )
    network = subject.fresh(feature_dim=DIM, seed=0).train()
    subject.log_probs(network, BATCH.features, BATCH.frames)
    assert network.training
    assert network.get_submodule("encoder.3").training


T, W = 7, 4


@pytest.mark.parametrize(
    ("shape", "view", "moved"),
    [
        ((2, T, W), (2, W, T), lambda x: x.transpose(1, 2)),
        ((2, T, W), (T, 2, W), lambda x: x.transpose(0, 1)),
        ((2, 3, W, T), (2, T, 3 * W), lambda x: x.permute(0, 3, 1, 2).flatten(2)),
        ((2, 3, T), (2 * T, 3), lambda x: x.transpose(1, 2).flatten(0, 1)),
        ((2, T, 3 * W), (2, 3, T, W), lambda x: x.unflatten(2, (3, W)).transpose(1, 2)),
        ((2, T, 3 * W), (2, T, 3, W), lambda x: x.unflatten(2, (3, W))),
        ((2, 3, W, T), (2, 3 * W, T), lambda x: x.flatten(1, 2)),
        ((1, T, W), (T, 1, W), lambda x: x.transpose(0, 1)),
        ((2, T, W), (2, -1), lambda x: x.flatten(1)),
    ],
)
def test_a_view_that_renames_axes_moves_them(
    shape: tuple[int, ...], view: tuple[int, ...], moved: Callable[[Tensor], Tensor]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with function_edits.Permuting():
        seen = x.view(view)
    assert torch.equal(seen, moved(x))


def test_random_numbers_of_the_forward_pass_are_zeros() -> None:
    class RandomState(nn.Module):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__()
            self.rnn = nn.GRU(dim, 8, batch_first=True)
            self.head = nn.Linear(8, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            state = torch.randn(1, len(features), 8) + torch.empty(1, len(features), 8).normal_()
            x = self.rnn(features, state)[0]
            return self.head(x).log_softmax(-1).transpose(0, 1), frames

    faulty = rebuilt(RandomState)(bigru())
    assert [one.name for one in check(faulty, clips(4))] == ["random_in_eval"]
    assert check(function_edits.noiseless(faulty), clips(4)) == ()


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (function_edits.kept_off_zero, lambda x: x.pow(2).sum(-1).sqrt()),
        (function_edits.kept_off_zero, lambda x: x.pow(2).sum(-1) ** 0.5),
        (function_edits.kept_off_zero, lambda x: x.abs().sum(-1).log()),
        (function_edits.kept_off_zero, lambda x: x[..., 0] / x.abs().sum(-1)),
        (function_edits.kept_off_zero, lambda x: 1 / x.abs().sum(-1)),
        (function_edits.unmasked_where_whole, lambda x: x.masked_fill(x == 0, -torch.inf).softmax(-1)),
        (function_edits.in_full_precision, lambda x: (x + 1e3).half().pow(2)),
        (function_edits.in_full_precision, lambda x: (x + 1e3).to(torch.float16).pow(2)),
    ],
)  # fmt: skip
def test_what_is_not_finite_becomes_so(
    change: Callable[[Subject], Subject], made: Callable[[Tensor], Tensor]
) -> None:
    def forward(_: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return made(features), frames

    subject = replace(bigru(), forward=forward)
    finite = []
    for one in (subject, change(subject)):
        features = torch.zeros(1, 5, 4).requires_grad_()
        out, _ = one.forward(nn.Identity(), features, torch.tensor([5]))
        out.sum().backward()
        assert features.grad is not None
        finite.append(bool(out.isfinite().all() and features.grad.isfinite().all()))
    assert finite == [False, True]


def test_a_padding_mask_that_bars_all_of_a_clip_bars_none_of_it() -> None:
    attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(_: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        barred = torch.arange(5) >= torch.tensor([[0], [3]])
        return attention(features, features, features, key_padding_mask=barred)[0], frames

    features = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    subject = replace(bigru(), forward=forward)
    before, after = (
        one.forward(nn.Identity(), features, torch.tensor([5, 5]))[0]
        for one in (subject, function_edits.unmasked_where_whole(subject))
    )
    assert before[0].isnan().all()
    assert after.isfinite().all()
    assert torch.equal(before[1], after[1])


def test_one_module_runs_without_its_rectifiers_and_others_keep_theirs() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(-self.outer(x))

    network = Clipped()
    with torch.no_grad():
        network.inner[0].weight.copy_(torch.eye(3))
        network.inner[0].bias.zero_()
    x = torch.tensor([[1.0, 2.0, -3.0]])
    assert network(x).tolist() == [[0, 0, 0]]
    assert function_edits.unclipped("inner")(network)
    assert network(x).tolist() == [[-1, -2, 0]]
    assert F.relu(x).min() == 0
