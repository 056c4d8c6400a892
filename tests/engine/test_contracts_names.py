"""Contracts name what is wrong as what it is, and where: variants of faults that others met, each
with its sound twin.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import CLIPS
from pytest_overfit.findings.examine import check
from pytest_overfit.network.function_edits import (
    Sloped,
    kept_off_zero,
    undropped,
    with_true_gradients,
)
from pytest_overfit.network.subject_edits import called_first, order_put_back
from pytest_overfit.subject import Sample, Subject
from tests.engine.planting import rebuilt
from tests.engine.subjects import DIM, BiGRU, MaskedConv, bigru, clips, halved, inside, subject


def found(of: Subject) -> list[Finding]:
    return list(check(of, of.samples[:12]))


def only(of: Subject) -> Finding:
    findings = found(of)
    assert [finding.name for finding in findings] == [findings[0].name]
    return findings[0]


class Conv(nn.Module):
    """Two masked convolutions, a linear head; `finish` turns logits (batch, steps, vocabulary) into
    the output.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
        inner: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.stem = MaskedConv(dim, 32, kernel=5)
        self.second = MaskedConv(32, 32, stride=2)
        self.head = nn.Linear(32, vocabulary)
        self.finish, self.inner = finish, inner

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = F.gelu(self.stem(features.transpose(1, 2), frames))
        x = self.inner(x) if self.inner else x
        x = F.gelu(self.second(x, frames)).transpose(1, 2)
        logits = self.head(x)
        output = self.finish(logits) if self.finish else logits.log_softmax(-1)
        return output.transpose(0, 1), halved(frames)


def conv(**keywords: Any) -> Subject:
    return subject(lambda dim, vocabulary: Conv(dim, vocabulary, **keywords), "conv")


# -- numbers that are not finite -------------------------------------------------------------------


def log_of_half(logits: Tensor) -> Tensor:
    return logits.half().softmax(-1).log().float()


def half_then_whole(logits: Tensor) -> Tensor:
    return logits.half().float().log_softmax(-1)


def unit_length(x: Tensor) -> Tensor:
    """Channels over their length: a step of zeros has no direction, and the root no slope at
    zero.
    """
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-6)


def unit_length_with_room(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-12).sqrt()


def zeroed_somewhere(then: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def inner(x: Tensor) -> Tensor:
        return then(x * (torch.arange(x.shape[-1]) % 7 > 0))

    return inner


def test_a_probability_that_half_precision_rounds_to_zero_is_named_where_its_logarithm_is_taken() -> (
    None
):
    finding = only(conv(finish=log_of_half))
    assert finding.name == "non_finite_output"
    assert "once the network is sure of its output" in finding.headline
    assert any("in float16" in line for line in finding.evidence)
    assert any("test_contracts_names.py:" in line for line in finding.evidence)


@pytest.mark.parametrize("finish", [half_then_whole, None])
def test_rounding_that_loses_no_token_is_no_fault(
    finish: Callable[[Tensor], Tensor] | None,
) -> None:
    assert "non_finite_output" not in {finding.name for finding in found(conv(finish=finish))}


def test_infinity_that_a_table_of_the_networks_own_makes_is_named_at_that_table() -> None:
    """The blank is counted in no target, so that the logarithm of its share is -inf."""

    class Balance(nn.Module):
        def __init__(self, counts: Tensor) -> None:
            super().__init__()
            self.register_buffer("prior", (counts / counts.sum()).log())

        def forward(self, scores: Tensor) -> Tensor:
            return scores - self.prior

    class Balanced(BiGRU):
        def __init__(self, dim: int, vocabulary: int, *, least: float) -> None:
            super().__init__(dim, vocabulary)
            counts = torch.full((vocabulary,), 3.0)
            counts[0] = least
            self.balance = Balance(counts)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            log_probs, steps = super().forward(features, frames)
            return self.balance(log_probs).log_softmax(-1), steps

    finding = only(subject(lambda dim, v: Balanced(dim, v, least=0.0), "balanced"))
    assert (finding.name, finding.module) == ("non_finite_output", "balance")
    assert "its prior, (25,), holds 1 that is not finite" in finding.evidence
    assert found(subject(lambda dim, v: Balanced(dim, v, least=1.0), "balanced")) == []


def test_a_gradient_that_is_not_finite_is_named_at_the_function_that_makes_it() -> None:
    finding = only(conv(inner=zeroed_somewhere(unit_length)))
    assert finding.name == "non_finite_gradient"
    assert "sqrt" in finding.headline


def test_nan_in_padding_that_no_loss_reads_is_named_where_it_is_made() -> None:
    """Behind it the logarithm of a softmax is the first to hand nan back."""

    class Lengths(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.pow(2).sum(-1, keepdim=True).sqrt()

    class Unit(nn.Module):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__()
            self.enter, self.unit = nn.Linear(dim, 32), Lengths()
            self.head = nn.Linear(32, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            shown = inside(frames, features.shape[1])[..., None]
            x = self.unit(self.enter(features) * shown)
            return self.head(x).log_softmax(-1).transpose(0, 1), frames

    finding = only(subject(Unit, "unit"))
    assert (finding.name, finding.module) == ("non_finite_gradient", "unit")
    assert "div" in finding.headline


def test_a_root_with_room_at_zero_is_no_fault() -> None:
    assert found(conv(inner=zeroed_somewhere(unit_length_with_room))) == []


class Attention(nn.Module):
    """One attention over a clip's frames; `empty` masks all of them for odd clips, in eval mode
    alone.
    """

    def __init__(self, dim: int, vocabulary: int, *, empty: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, 32)
        self.mix = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, vocabulary)
        self.empty = empty

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features)
        mask = ~inside(frames, x.shape[1])
        if self.empty and not self.training:
            mask = mask | (frames % 2 == 1)[:, None]
        x = x + self.mix(x, x, x, key_padding_mask=mask)[0]
        return self.head(x).log_softmax(-1).transpose(0, 1), frames


def test_nan_in_eval_mode_alone_is_named_with_its_module_and_nothing_else() -> None:
    finding = only(
        subject(lambda dim, vocabulary: Attention(dim, vocabulary, empty=True), "attention")
    )
    assert finding.name == "non_finite_output"
    assert "eval mode" in finding.headline
    assert finding.module == "mix"


def test_masks_of_minus_infinity_that_leave_something_are_no_fault() -> None:
    names = {
        finding.name
        for finding in found(subject(lambda d, v: Attention(d, v, empty=False), "attention"))
    }
    assert not names & {"non_finite_output", "non_finite_gradient"}


# -- state, order and batch ------------------------------------------------------------------------


class Streaming(BiGRU):
    """A BiGRU that adds a running mean of what it has seen: `kept` between calls, or started
    anew.
    """

    def __init__(self, dim: int, vocabulary: int, *, kept: bool) -> None:
        super().__init__(dim, vocabulary, dropout=0.0)
        self.kept, self.mean = kept, None

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        own = features.mean(1, keepdim=True).mean(0, keepdim=True).detach()
        self.mean = 0.5 * self.mean + 0.5 * own if self.kept and self.mean is not None else 0 * own
        return super().forward(features + 20 * self.mean, frames)


def test_state_that_is_carried_from_call_to_call_is_no_noise() -> None:
    finding = only(
        subject(lambda dim, vocabulary: Streaming(dim, vocabulary, kept=True), "streaming")
    )
    assert (finding.name, finding.module) == ("carried_state", "encoder.0")


def test_a_network_that_starts_anew_carries_nothing() -> None:
    assert (
        found(subject(lambda dim, vocabulary: Streaming(dim, vocabulary, kept=False), "streaming"))
        == []
    )


class Skipping(BiGRU):
    """A BiGRU whose first layer is skipped now and then, by numbers of numpy's or Python's, in eval
    mode too.
    """

    def __init__(self, dim: int, vocabulary: int, *, draw: Callable[[], float]) -> None:
        super().__init__(dim, vocabulary, dropout=0.0)
        self.draw, self.first = draw, nn.Linear(dim, dim)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.draw() > 0.5
        return super().forward(self.first(features) if kept else features, frames)


@pytest.mark.parametrize("draw", [np.random.random, random.random], ids=["numpy", "python"])
def test_layers_skipped_by_the_numbers_of_others_are_noise_and_no_state(
    draw: Callable[[], float],
) -> None:
    finding = only(
        subject(lambda dim, vocabulary: Skipping(dim, vocabulary, draw=draw), "skipping")
    )
    assert finding.name == "random_in_eval"


GENERATORS = {
    "python": (lambda: random.Random(0), lambda generator: generator.random()),
    "numpy": (lambda: np.random.default_rng(0), lambda generator: generator.random()),
    "numpy of old": (lambda: np.random.RandomState(0), lambda generator: generator.rand()),
    "torch": (
        lambda: torch.Generator().manual_seed(0),
        lambda generator: float(torch.rand((), generator=generator)),
    ),
}


@pytest.mark.parametrize("of", GENERATORS)
def test_a_generator_of_its_own_is_noise_and_no_state(of: str) -> None:
    make, draw = GENERATORS[of]

    class Masking(nn.Module):
        """Leaves out a share of what it is given."""

        def __init__(self, *, always: bool) -> None:
            super().__init__()
            self.always, self.dice = always, make()

        def forward(self, x: Tensor) -> Tensor:
            return x * (draw(self.dice) if self.always or self.training else 1.0)

    class Masked(BiGRU):
        def __init__(self, dim: int, vocabulary: int, *, always: bool) -> None:
            super().__init__(dim, vocabulary)
            self.masking = Masking(always=always)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(self.masking(features), frames)

    finding = only(subject(lambda dim, v: Masked(dim, v, always=True), "masked"))
    assert (finding.name, finding.module) == ("random_in_eval", "masking")
    assert finding.evidence == ("masking.dice is a generator of its own, which no seed reaches",)
    assert found(subject(lambda dim, v: Masked(dim, v, always=False), "masked")) == []


def test_state_beside_a_generator_of_its_own_is_state() -> None:
    """It remembers the last batch alone: the same one before it would hide that."""

    class Remembering(BiGRU):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.dice, self.last = random.Random(0), None

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            own = features.mean((0, 1)).detach()
            before, self.last = own if self.last is None else self.last, own
            return super().forward(features + 20 * before, frames)

    assert only(subject(Remembering, "remembering")).name == "carried_state"


class Unsorted(BiGRU):
    """A BiGRU on clips sorted by length, longest first, and put back in the wrong way or the right
    one.
    """

    def __init__(self, dim: int, vocabulary: int, *, back: Callable[[Tensor], Tensor]) -> None:
        super().__init__(dim, vocabulary)
        self.back = back

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        order = frames.argsort(descending=True, stable=True)
        output, steps = super().forward(features[order], frames[order])
        back = self.back(order)
        return output[:, back], steps[back]


def test_an_order_that_is_not_put_back_is_found_though_clips_that_come_sorted_hide_it() -> None:
    finding = found(subject(lambda d, v: Unsorted(d, v, back=lambda order: order), "unsorted"))[0]
    assert finding.name in ("batch_leak", "wrong_steps")
    assert "learning rate" not in finding.headline


def test_an_order_that_is_put_back_is_no_leak() -> None:
    assert (
        found(subject(lambda d, v: Unsorted(d, v, back=lambda order: order.argsort()), "unsorted"))
        == []
    )


class SortedBySums(BiGRU):
    """A BiGRU whose frames are normalised and whose clips are then sorted by their sums, which are
    rounding by then, and put back or not.
    """

    def __init__(self, dim: int, vocabulary: int, *, put_back: bool) -> None:
        super().__init__(dim, vocabulary)
        self.first, self.put_back = nn.LayerNorm(dim), put_back

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(features)
        order = x.detach().sum((1, 2)).argsort(descending=True)
        x = x[order]
        return super().forward(x[order.argsort()] if self.put_back else x, frames)


def test_an_order_that_hangs_on_rounding_is_no_rounding() -> None:
    faulty = subject(lambda d, v: SortedBySums(d, v, put_back=False), "sorted")
    assert found(faulty)[0].name == "batch_leak"
    assert found(subject(lambda d, v: SortedBySums(d, v, put_back=True), "sorted")) == []


def test_a_recurrent_layer_over_the_batch_is_named() -> None:
    class OverBatch(BiGRU):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.across = nn.GRU(96, 48, bidirectional=True)  # batch_first is missing
            self.rnn_head = nn.Linear(96, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            x = self.encoder(features).transpose(1, 2)
            x = self.activation(self.norm(self.conv(x, frames))).transpose(1, 2)
            x = self.across(torch.cat([x, x], -1))[0]
            return self.rnn_head(x).log_softmax(-1).transpose(0, 1), halved(frames)

    finding = next(f for f in found(subject(OverBatch, "over batch")) if f.name == "batch_leak")
    assert finding.module == "across"


# -- output, decoder and loss ----------------------------------------------------------------------


def test_a_softmax_over_time_is_called_one() -> None:
    finding = found(conv(finish=lambda logits: logits.log_softmax(1)))[0]
    assert finding.name == "unnormalised_output"
    assert "over the steps, not over the vocabulary" in finding.headline


def test_an_activation_behind_the_head_is_named_with_its_module() -> None:
    class Shut(Conv):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.head = nn.Sequential(
                nn.Linear(32, vocabulary), nn.Softplus(), nn.ReLU6(), nn.Hardtanh(0.7, 6.0)
            )

    finding = next(f for f in found(subject(Shut, "shut")) if f.name == "clipped_output")
    assert finding.module == "head.3"


def decode(log_probs: Tensor, steps: Tensor, *, filled_with: int) -> list[list[int]]:
    """Best path over the whole batch, what stands past a clip's end filled with one token."""
    paths = log_probs.argmax(-1).T.clone()
    for path, end in zip(paths, steps.tolist(), strict=True):
        path[end:] = filled_with
    return [
        [t for i, t in enumerate(path) if t and (i == 0 or t != path[i - 1])]
        for path in paths.tolist()
    ]


def test_a_decoder_that_reads_what_padding_was_filled_with_is_told_so() -> None:
    faulty = subject(
        BiGRU, "bigru", decode=lambda log_probs, steps: decode(log_probs, steps, filled_with=3)
    )
    finding = only(faulty)
    assert finding.name == "wrong_steps"
    assert "collapse" not in (finding.try_ or "")


def interleaved(log_probs: Tensor, steps: Tensor) -> list[list[int]]:
    """Best paths cut from what was laid in a row steps first, as if clips came first."""
    row, length = log_probs.argmax(-1).flatten().tolist(), len(log_probs)
    paths = [row[i * length : i * length + end] for i, end in enumerate(steps.tolist())]
    return [[t for i, t in enumerate(path) if t and (i == 0 or t != path[i - 1])] for path in paths]


def test_a_decoder_that_mixes_clips_does_not_read_past_their_end() -> None:
    finding = only(subject(BiGRU, "bigru", decode=interleaved))
    assert finding.name == "wrong_decoder"
    assert "mixes clips" in finding.headline


def test_a_decoder_that_fills_with_blanks_is_sound() -> None:
    assert (
        found(
            subject(
                BiGRU,
                "bigru",
                decode=lambda log_probs, steps: decode(log_probs, steps, filled_with=0),
            )
        )
        == []
    )


def masked(pad: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Reads as many labels as are not negative, after padding was replaced by `pad`."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        labels = targets.masked_fill(targets < 0, pad)
        kept = labels >= 0
        return F.ctc_loss(log_probs, labels[kept], steps, kept.sum(-1), reduction="mean")

    return loss


def test_a_loss_that_masks_negative_labels_is_sound() -> None:
    assert found(subject(BiGRU, "bigru", loss=masked(-100))) == []


def test_a_loss_that_takes_padding_for_labels_is_told_so() -> None:
    assert only(subject(BiGRU, "bigru", loss=masked(2))).name == "wrong_targets"


def test_a_head_that_is_not_trained_is_named_before_what_stands_under_it() -> None:
    finding = found(
        subject(
            BiGRU,
            "bigru",
            trainable=lambda n: [
                (k, p) for k, p in n.named_parameters() if k.startswith("encoder")
            ],
        )
    )[0]
    assert (finding.name, finding.module) == ("parameter_not_trained", "head")


def test_skipped_frames_are_explained_by_what_skips_them() -> None:
    def strided(kernel: int, stride: int) -> Subject:
        class Skipping(Conv):
            def __init__(self, dim: int, vocabulary: int) -> None:
                super().__init__(dim, vocabulary)
                self.second = MaskedConv(32, 32, kernel=kernel, stride=stride)
                self.stride = stride

            def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
                output, _ = super().forward(features, frames)
                return output, (frames - 1) // self.stride + 1

        return subject(Skipping, "skipping", samples=clips(12))

    def veiled(veil: type[nn.Module]) -> Subject:
        class Veiled(Conv):
            """A mask of counts that are compared with shares."""

            def __init__(self, dim: int, vocabulary: int) -> None:
                super().__init__(dim, vocabulary)
                self.veil = veil()

            def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
                return super().forward(self.veil(features, frames), frames)

        return subject(Veiled, "veiled")

    class Veil(nn.Module):
        def forward(self, x: Tensor, frames: Tensor) -> Tensor:
            share = frames / frames.max()
            return x * (torch.arange(x.shape[1]) < share[:, None])[..., None]

    class Steered(Veil):
        """Steered by a layer that starts at zero, and so hands nothing on itself."""

        def __init__(self) -> None:
            super().__init__()
            self.steer = nn.Conv1d(DIM, 1, 3, padding=1)
            nn.init.zeros_(self.steer.weight)

        def forward(self, x: Tensor, frames: Tensor) -> Tensor:
            steered = torch.tanh(self.steer(x.transpose(1, 2))).transpose(1, 2)
            return super().forward(x * (1 + steered), frames)

    for veil in (Veil, Steered):
        (told,) = (f for f in found(veiled(veil)) if f.name == "skipped_frames")
        assert told.module == "veil"
    gaps = [f for f in found(strided(1, 4)) if f.name == "skipped_frames"]
    assert not gaps or "kernel is (1,), its stride (4,)" in (gaps[0].try_ or "")
    assert "skipped_frames" not in {f.name for f in found(strided(3, 2))}


# -- features --------------------------------------------------------------------------------------


def uneven(by: float) -> list[Sample]:
    """Clips whose columns grow from 1 to `by` in size."""
    return [
        replace(
            clip, features=clip.features * torch.logspace(0, math.log10(by), clip.features.shape[1])
        )
        for clip in clips(12)
    ]


def test_columns_that_differ_far_in_size_are_a_warning_though_all_of_them_together_are_of_unit_scale() -> (
    None
):
    finding = only(
        subject(
            Conv,
            "conv",
            samples=[replace(clip, features=0.02 * clip.features) for clip in uneven(100.0)],
        )
    )
    assert (finding.name, finding.severity) == ("unscaled_input", "warning")
    assert "of 0.0066" in finding.evidence[0]


@pytest.mark.parametrize("by", [1.0, 5.0])
def test_columns_of_about_one_size_are_no_matter(by: float) -> None:
    assert found(subject(Conv, "conv", samples=uneven(by))) == []


def test_columns_that_a_norm_makes_alike_are_no_matter() -> None:
    class Normed(Conv):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.norm = nn.BatchNorm1d(dim)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            rows = features[inside(frames, features.shape[1])]
            normed = torch.zeros_like(features)
            normed[inside(frames, features.shape[1])] = self.norm(rows)
            return super().forward(normed, frames)

    assert "unscaled_input" not in {
        finding.name for finding in found(subject(Normed, "normed", samples=uneven(100.0)))
    }


def test_a_column_that_seldom_moves_has_no_scale() -> None:
    seldom = clips(12)
    for clip in seldom:
        clip.features[:, 3] = 0.0
        clip.features[7, 3] = 1e-4
    assert found(subject(Conv, "conv", samples=seldom)) == []


def test_a_code_for_places_that_counts_clips_is_named_though_mates_do_not_matter() -> None:
    class Placed(BiGRU):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.place = Place()

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(self.place(features), frames)

    class Place(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.arange(len(x))[:, None, None].sin()

    finding = next(f for f in found(subject(Placed, "placed")) if f.name == "batch_leak")
    assert finding.module == "place"


def test_a_leak_behind_frames_that_are_seen_one_by_one_is_put_where_it_is() -> None:
    """Pictures have as many rows as there are clips, and clips lie end to end in the first axis."""

    class Seen(BiGRU):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.see = nn.Conv2d(1, 1, 3, padding=1)
            self.mix = Mixed()

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            pictures = features.reshape(-1, 1, CLIPS, features.shape[-1] // CLIPS)
            seen = self.mix(self.see(pictures).flatten(1).unflatten(0, features.shape[:2]))
            return super().forward(features + seen, frames)

    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    finding = next(f for f in found(subject(Seen, "seen")) if f.name == "batch_leak")
    assert finding.module == "mix"


# -- what is no parameter --------------------------------------------------------------------------


class Aside(BiGRU):
    """A BiGRU with one more layer, kept in a plain list or dict, made at each call, or registered
    as it should be.
    """

    def __init__(self, dim: int, vocabulary: int, *, kept: str) -> None:
        super().__init__(dim, vocabulary)
        layer = nn.Linear(dim, dim)
        self.extra: Any = {
            "list": [layer],
            "dict": {"mix": layer},
            "module": nn.ModuleList([layer]),
            "tensor": None,
            "anew": None,
        }[kept]
        self.scale = torch.ones(dim, requires_grad=True) if kept == "tensor" else 1.0
        self.kept = kept

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if self.kept == "anew":
            torch.manual_seed(0)
            features = nn.Linear(features.shape[-1], features.shape[-1])(features)
        for layer in self.extra.values() if isinstance(self.extra, dict) else self.extra or []:
            features = layer(features)
        return super().forward(features * self.scale, frames)


@pytest.mark.parametrize(
    ("kept", "where"),
    [("list", "in extra"), ("dict", "in extra"), ("tensor", "in scale"), ("anew", "made anew")],
)
def test_layers_that_are_not_registered_are_named_by_what_holds_them(kept: str, where: str) -> None:
    finding = only(subject(lambda dim, vocabulary: Aside(dim, vocabulary, kept=kept), "aside"))
    assert finding.name == "parameter_not_trained"
    assert where in finding.headline


def test_a_registered_layer_is_trained() -> None:
    assert (
        found(subject(lambda dim, vocabulary: Aside(dim, vocabulary, kept="module"), "aside")) == []
    )


# -- checkpoints, masks, flat targets and edges ----------------------------------------------------


class Checkpointed(BiGRU):
    """A BiGRU whose features pass one more layer inside a checkpoint of either kind."""

    def __init__(self, dim: int, vocabulary: int, *, reentrant: bool) -> None:
        super().__init__(dim, vocabulary)
        self.embed, self.reentrant = nn.Linear(dim, dim), reentrant

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
            return super().forward(
                checkpoint(self.embed, features, use_reentrant=self.reentrant), frames
            )


# Torch 2.4's own checkpoint asks for autocast by a name that it warns of itself.
of_torch = pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")


@of_torch
def test_a_reentrant_checkpoint_that_keeps_gradients_from_its_layers_is_a_cut() -> None:
    finding = next(
        f
        for f in found(subject(lambda d, v: Checkpointed(d, v, reentrant=True), "checkpointed"))
        if f.severity == "failure"
    )
    assert finding.name == "detached_branch"
    assert "no gradient reaches embed" in finding.headline


def test_a_module_that_runs_without_gradient_is_named_itself() -> None:
    class Frozen(BiGRU):
        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                features = self.front(features)
            return super().forward(features, frames)

        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.front = nn.Linear(dim, dim)

    finding = only(subject(Frozen, "frozen"))
    assert (finding.name, finding.module) == ("detached_branch", "front")


def test_a_rectifier_that_blocks_share_is_told_of_the_block_behind_which_logits_are_clipped() -> (
    None
):
    class Block(nn.Module):
        def __init__(self, into: int, out: int, activation: nn.Module) -> None:
            super().__init__()
            self.mix, self.activation = nn.Linear(into, out), activation
            self.dropout = nn.Dropout(0.0)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.dropout(self.activation(self.mix(x)))
            return out

    class Net(nn.Module):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__()
            shared = nn.ReLU()
            self.blocks = nn.Sequential(Block(dim, 32, shared), Block(32, vocabulary, shared))

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return self.blocks(features).log_softmax(-1).transpose(0, 1), frames

    (told,) = [one for one in found(subject(Net, "shared")) if one.name == "clipped_output"]
    assert told.module == "blocks.1"


def test_a_graph_that_is_cut_within_a_module_is_told_of_that_module() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.scale = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                gate = torch.sigmoid(self.scale.weight @ x[..., None])[..., 0]
            out: Tensor = self.lift(x) * gate
            return out

    class Net(Conv):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.gated = Gated()
            self.inner = lambda x: self.gated(x.transpose(1, 2)).transpose(1, 2)

    told = found(subject(Net, "gated"))[0]
    assert (told.name, told.module) == ("detached_branch", "gated")
    assert "the graph is cut in gated" in told.headline


@of_torch
def test_a_checkpoint_that_keeps_nothing_is_sound() -> None:
    assert found(subject(lambda d, v: Checkpointed(d, v, reentrant=False), "checkpointed")) == []


def test_a_mask_the_wrong_way_round_is_nan_where_attention_takes_its_fast_path() -> None:
    class Masked(nn.Module):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__()
            self.enter = nn.Linear(dim, 32)
            self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
            self.head = nn.Linear(32, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            x = self.layer(
                self.enter(features), src_key_padding_mask=inside(frames, features.shape[1])
            )
            return self.head(x).log_softmax(-1).transpose(0, 1), frames

    finding = next(f for f in found(subject(Masked, "masked")) if f.name == "non_finite_output")
    assert (finding.module or "").startswith("layer")


def flat(pad: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Targets in one row: without padding, or with `pad` in the place of it."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        row = targets[targets >= 0] if pad is None else targets.clamp(min=pad).flatten()
        return F.ctc_loss(log_probs, row[: int(target_lengths.sum())], steps, target_lengths)

    return loss


def test_targets_in_one_row_are_sound_without_their_padding() -> None:
    assert found(subject(BiGRU, "bigru", loss=flat(None))) == []


def test_targets_in_one_row_with_their_padding_are_the_wrong_targets() -> None:
    assert found(subject(BiGRU, "bigru", loss=flat(1)))[0].name == "wrong_targets"


@pytest.mark.parametrize(("lost", "chosen"), [(1, False), (8, True), (8, False)])
def test_columns_may_be_dropped_before_any_layer_or_left_over_at_the_edge(
    lost: int, chosen: bool
) -> None:
    class Cut(BiGRU):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim - lost if chosen else dim, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            kept = features[..., :-lost]
            return super().forward(kept if chosen else F.pad(kept, (0, lost)), frames)

    (finding,) = found(subject(Cut, "cut"))
    assert finding.name == "columns_ignored"
    assert finding.severity == ("failure" if lost > 1 and not chosen else "warning")


class Parts(BiGRU):
    """An encoder of each part of the features; `pool` makes one of what they say."""

    def __init__(self, dim: int, vocabulary: int, pool: nn.Module) -> None:
        super().__init__(8, vocabulary)
        self.small, self.pool = nn.Linear(dim // 4, 8), pool

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        said = self.small(features.unflatten(-1, (4, -1)))
        return super().forward(self.pool(said), frames)


class FirstOf(nn.Module):
    def forward(self, said: Tensor) -> Tensor:
        return said[..., 0, :]


class AllOf(nn.Module):
    def forward(self, said: Tensor) -> Tensor:
        return said.sum(-2)


def test_columns_that_are_encoded_and_thrown_away_are_put_where_that_is() -> None:
    finding = next(
        one
        for one in found(subject(lambda d, v: Parts(d, v, FirstOf()), "parts"))
        if one.name == "columns_ignored"
    )
    assert (finding.severity, finding.module) == ("failure", "pool")
    names = [one.name for one in found(subject(lambda d, v: Parts(d, v, AllOf()), "parts"))]
    assert "columns_ignored" not in names


class Rows(BiGRU):
    """Features as pictures of rows, of which a pool leaves the last over."""

    def __init__(self, dim: int, vocabulary: int, rows: int) -> None:
        super().__init__(dim // rows * (rows // 2), vocabulary)
        self.rows, self.look, self.pool = rows, nn.Conv2d(1, 1, 1), nn.MaxPool2d((2, 1))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        clips, steps, _ = features.shape
        picture = features.reshape(clips * steps, 1, self.rows, -1)
        return super().forward(self.pool(self.look(picture)).reshape(clips, steps, -1), frames)


def test_a_row_of_a_picture_that_a_pool_leaves_over_is_told_with_the_pool() -> None:
    sound = subject(BiGRU, "rows")
    wide = [
        replace(sample, features=sample.features[:, torch.arange(11 * 20) % DIM])
        for sample in sound.samples
    ]
    of = rebuilt(lambda d, v: Rows(d, v, 11))(replace(sound, samples=wide))
    finding = next(one for one in found(of) if one.name == "columns_ignored")
    assert (finding.severity, finding.module) == ("warning", "pool")
    assert not any("before any layer" in line for line in finding.evidence)


class Ends(nn.Module):
    """A network that ends in a module of the caller's."""

    def __init__(self, dim: int, vocabulary: int, end: nn.Module) -> None:
        super().__init__()
        self.rnn, self.head, self.end = (
            nn.GRU(dim, 16, batch_first=True),
            nn.Linear(16, vocabulary),
            end,
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.end(self.head(self.rnn(features)[0])), frames


@pytest.mark.parametrize("outputs", ["logits", "log_probs"])
@pytest.mark.parametrize("end", [nn.Softmax(-1), nn.LogSoftmax(0)])
def test_the_module_that_a_softmax_is_taken_in_is_named(end: nn.Module, outputs: Any) -> None:
    of = replace(
        rebuilt(lambda dim, vocabulary: Ends(dim, vocabulary, end))(bigru()),
        outputs=outputs,
        layout="BTV",
    )
    modules = [f.module for f in check(of, clips(4)) if f.name == "unnormalised_output"]
    assert modules == ([] if outputs == "logits" and isinstance(end, nn.LogSoftmax) else ["end"])


class Recurrent(nn.Module):
    """A recurrent layer on packed sequences, longest first, which puts the clips back or does
    not.
    """

    def __init__(self, width: int, *, back: bool) -> None:
        super().__init__()
        self.rnn, self.back = nn.GRU(width, width, batch_first=True), back

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        ordered, order = steps.sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(x[order], ordered, batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return out[order.argsort()] if self.back else out


class Ordered(nn.Module):
    """One that sorts clips and puts them back, then one that may not."""

    def __init__(self, dim: int, vocabulary: int, *, back: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(dim, 24)
        self.first, self.second = Recurrent(24, back=True), Recurrent(24, back=back)
        self.head = nn.Linear(24, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.second(self.first(self.stem(features), frames), frames)
        return self.head(x).log_softmax(-1).transpose(0, 1), frames


def ordered(*, back: bool) -> Subject:
    return subject(lambda dim, vocabulary: Ordered(dim, vocabulary, back=back), "ordered")


def test_clips_that_are_sorted_and_not_put_back_are_told_so_at_the_module_that_does_it() -> None:
    finding = only(ordered(back=False))
    assert (finding.name, finding.module) == ("batch_leak", "second")
    assert "stands in the place of" in finding.evidence[1]
    assert "argsort" in (finding.try_ or "")
    assert found(order_put_back(ordered(back=False))) == []
    assert found(ordered(back=True)) == []


class Attends(nn.Module):
    """Attention of its own, which drops weights in training, or in eval mode too."""

    def __init__(self, width: int, *, always: bool) -> None:
        super().__init__()
        self.mix, self.out, self.always = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            always,
        )

    def forward(self, x: Tensor, outside: Tensor) -> Tensor:
        query, key, value = self.mix(x).chunk(3, -1)
        drops = 0.5 if self.always or self.training else 0.0
        mask = torch.zeros_like(outside, dtype=x.dtype).masked_fill(outside, -math.inf)
        seen = F.scaled_dot_product_attention(query, key, value, mask[:, None], dropout_p=drops)
        return x + self.out(seen)


class Attentive(BiGRU):
    """With attention before its recurrent layers."""

    def __init__(self, dim: int, vocabulary: int, *, always: bool) -> None:
        super().__init__(dim, vocabulary)
        self.attend = Attends(dim, always=always)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        outside = torch.arange(features.shape[1]) >= frames[:, None]
        return super().forward(self.attend(features, outside), frames)


def attentive(*, always: bool) -> Subject:
    return subject(lambda dim, vocabulary: Attentive(dim, vocabulary, always=always), "attentive")


def test_randomness_is_put_where_it_is_drawn_and_not_at_the_layer_behind_it() -> None:
    finding = only(attentive(always=True))
    assert (finding.name, finding.module) == ("random_in_eval", "attend")
    assert found(undropped(attentive(always=True))) == []
    assert found(attentive(always=False)) == []


class Added(Conv):
    """Adds what it was given to what dropout hands on, in place."""

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(features.transpose(1, 2), frames))
        given, x = x, self.drop(F.relu(self.middle(x, frames)))
        x += given
        x = F.gelu(self.second(x, frames)).transpose(1, 2)
        return self.head(x).log_softmax(-1).transpose(0, 1), halved(frames)

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.middle, self.drop = MaskedConv(32, 32, kernel=3), nn.Dropout(0.2)


def test_what_is_written_into_behind_dropout_has_its_gradient_in_eval_mode_too() -> None:
    """relu keeps its output for the backward pass, and without a copy that is written into."""
    added = subject(Added, "added")
    assert found(added) == []
    network = added.fresh(feature_dim=added.samples[0].features.shape[1], seed=0).eval()
    clip = added.samples[0].features[None]
    with pytest.raises(RuntimeError, match="inplace operation"):
        network(clip, torch.tensor([clip.shape[1]]))[0].sum().backward()
    assert found(undropped(added)) == []


class Alone(Conv):
    """A batch norm that a clip alone passes by."""

    def __init__(self, dim: int, vocabulary: int, *, always: bool) -> None:
        super().__init__(dim, vocabulary)
        self.norm, self.always = nn.BatchNorm1d(32), always

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = F.gelu(self.stem(features.transpose(1, 2), frames))
        if self.always or len(x) > 1:
            outside = torch.arange(x.shape[2]) >= frames[:, None]
            x = self.norm(x).masked_fill(outside[:, None], 0.0)
        x = F.gelu(self.second(x, frames)).transpose(1, 2)
        return self.head(x).log_softmax(-1).transpose(0, 1), halved(frames)


def test_a_norm_that_one_clip_alone_passes_by_is_named_though_it_does_nothing_yet() -> None:
    finding = only(subject(lambda dim, v: Alone(dim, v, always=False), "alone"))
    assert (finding.name, finding.module) == ("batch_leak", "norm")
    assert finding.headline.endswith(": norm runs on several clips only")
    assert found(subject(lambda dim, v: Alone(dim, v, always=True), "alone")) == []


# -- state in buffers, weights made late, gates that are shut ---------------------------------------


class Codes(BiGRU):
    """A BiGRU whose features are pulled towards codes, which follow what they are taken for; in eval
    mode too, unless `train_only`.
    """

    def __init__(self, dim: int, vocabulary: int, *, train_only: bool) -> None:
        super().__init__(dim, vocabulary)
        self.codes, self.train_only = nn.Module(), train_only
        self.codes.register_buffer("mean", torch.zeros(dim))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        features = features + 20 * self.codes.mean
        if self.training or not self.train_only:
            self.codes.mean.mul_(0.5).add_(0.5 * features.detach().mean((0, 1)))
        return super().forward(features, frames)


def test_state_in_a_buffer_that_eval_mode_moves_is_carried() -> None:
    kept = subject(lambda d, v: Codes(d, v, train_only=False), "codes")
    assert "carried_state" in [finding.name for finding in found(kept)]


def test_a_buffer_that_train_mode_alone_moves_is_sound() -> None:
    assert found(subject(lambda d, v: Codes(d, v, train_only=True), "codes")) == []


class MadeLate(BiGRU):
    """A BiGRU with a layer before it that the first call makes anew."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.embed, self.begun = nn.Linear(dim, dim), False

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if not self.begun:
            self.embed, self.begun = nn.Linear(features.shape[-1], features.shape[-1]), True
        return super().forward(self.embed(features), frames)


def test_a_layer_that_the_first_call_makes_anew_is_not_trained() -> None:
    late = subject(MadeLate, "late")
    finding = only(late)
    assert (finding.name, finding.module) == ("parameter_not_trained", "embed")
    assert finding.headline.startswith("the first call makes embed anew")
    assert found(called_first(late)) == []


class Chrono(BiGRU):
    """A BiGRU behind an LSTM whose input gate starts at minus `bias`."""

    def __init__(self, dim: int, vocabulary: int, *, bias: float) -> None:
        super().__init__(32, vocabulary, norm=nn.Identity)
        self.memory = nn.LSTM(dim, 32, batch_first=True)
        with torch.no_grad():
            self.memory.bias_ih_l0[:32] = -bias

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.memory(features)[0], frames)


def test_a_gate_so_shut_that_squares_of_what_passes_are_zero_is_named_itself() -> None:
    shut = found(subject(lambda d, v: Chrono(d, v, bias=70.0), "chrono"))
    assert (shut[0].name, shut[0].module) == ("input_ignored", "memory")
    assert "scaled away" in shut[0].headline


def test_a_gate_that_is_ajar_is_sound() -> None:
    names = [one.name for one in found(subject(lambda d, v: Chrono(d, v, bias=2.0), "chrono"))]
    assert "input_ignored" not in names


class Places(nn.Module):
    """Adds places to steps, or gives the places alone."""

    def __init__(self, width: int, *, alone: bool) -> None:
        super().__init__()
        self.table, self.dropout, self.alone = nn.Embedding(200, width), nn.Dropout(0.1), alone

    def forward(self, x: Tensor) -> Tensor:
        places = self.table(torch.arange(x.shape[1])).expand(x.shape)
        return self.dropout(places) + (0.0 if self.alone else x)


def test_a_block_that_throws_away_what_it_is_given_is_named_before_its_parts() -> None:
    class Placed(BiGRU):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.places = Places(dim, alone=True)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(self.places(features), frames)

    first = found(subject(Placed, "placed"))[0]
    assert (first.name, first.module) == ("input_ignored", "places")


# -- modes that are hidden, gradients turned round ---------------------------------------------------


class HiddenMode(BiGRU):
    """A network whose own loop is called as torch's switch of modes is."""

    def train(self, epochs: int, loader: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


def test_a_loop_called_train_is_told_to_hide_torchs_own() -> None:
    (finding,) = found(subject(HiddenMode, "hidden"))
    assert finding.name == "network_fails"
    assert "HiddenMode.train(self, epochs" in finding.headline
    assert finding.headline.endswith("give it another name")


class Reverse(torch.autograd.Function):
    """Turns the gradient round, as for an adversary."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -0.5 * gradient


class Adversary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Reverse.apply(x)


class Reversing(BiGRU):
    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.embed, self.adversary = nn.Linear(dim, dim), Adversary()

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.adversary(self.embed(features)), frames)


def test_a_backward_function_of_its_own_is_named_where_it_is_used_and_mended_without_it() -> None:
    reversing = subject(Reversing, "reversing")
    finding = only(reversing)
    assert (finding.name, finding.module) == ("false_gradient", "adversary")
    assert finding.evidence[-1] == "it is called Reverse"
    assert found(with_true_gradients(reversing)) == []


class Angles(nn.Module):
    """Arc cosines of how each step looks like the one before, the first like itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(x, dim=-1)
        before = torch.cat([x[:, :1], x[:, :-1]], 1)
        return (x * before).sum(-1, keepdim=True).clamp(-1, 1).acos()


def test_an_arc_cosine_of_one_is_kept_from_the_edge() -> None:
    class Turning(BiGRU):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.embed, self.angles = nn.Linear(dim, dim), Angles()

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            x = self.embed(features)
            return super().forward(x + self.angles(x), frames)

    turning = subject(Turning, "turning")
    assert (only(turning).name, only(turning).module) == ("non_finite_gradient", "angles")
    assert [one.name for one in found(kept_off_zero(turning)) if one.severity == "failure"] == []


def test_a_comparison_has_the_slope_of_a_sigmoid_while_it_is_trained() -> None:
    with Sloped():
        x = torch.tensor([-1.0, 0.25], requires_grad=True)
        fired = (x > 0).float()
        fired.sum().backward()
        assert fired.tolist() == [0.0, 1.0]
        assert x.grad is not None
        assert bool((x.grad > 0).all())
        with torch.no_grad():
            assert (x > 0).dtype == torch.bool


# -- clips mixed inside a block ----------------------------------------------------------------------


class BatchMean(nn.Module):
    """Adds the mean over the batch and a table of places, and drops some."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.dropout = nn.Embedding(200, width), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = x + x.mean(0, keepdim=True)
        return self.dropout(mixed + self.table(torch.arange(x.shape[1])))


class Mixing(BiGRU):
    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.places = BatchMean(dim)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.places(features), frames)


def test_clips_that_are_mixed_within_a_block_are_put_there_and_not_behind_it() -> None:
    leak = next(one for one in found(subject(Mixing, "mixing")) if one.name == "batch_leak")
    assert leak.module == "places"
    assert leak.headline.endswith("they are mixed in places, before places.dropout")


# -- what the last block hands on --------------------------------------------------------------------


class Cell(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.look, self.out, self.skip = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.tanh(self.look(x))
        return x + self.out(seen), self.skip(seen)


class Cells(BiGRU):
    """Cells of which all hand on, and all are read by their skips, but for one that is thrown away."""

    def __init__(self, dim: int, vocabulary: int, *, thrown_away: int) -> None:
        super().__init__(dim, vocabulary)
        self.cells, self.thrown_away = nn.ModuleList(Cell(dim) for _ in range(3)), thrown_away

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = read = features
        for place, cell in enumerate(self.cells):
            onward, skip = cell(x)
            read = read + skip
            x = x if place == self.thrown_away else onward
        return super().forward(read, frames)


@pytest.mark.parametrize(
    ("thrown_away", "told"),
    [
        (2, [("cells.2.out", "warning")]),
        (0, [("cells.0.out", "failure"), ("cells.2.out", "failure")]),
    ],
    ids=["the last, as in WaveNet", "the first as well"],
)
def test_what_the_last_block_alone_hands_on_may_lead_nowhere(
    thrown_away: int, told: list[tuple[str, str]]
) -> None:
    cells = found(subject(lambda d, v: Cells(d, v, thrown_away=thrown_away), "cells"))
    assert {one.name for one in cells} == {"unused_module"}
    assert [(one.module, one.severity) for one in cells] == told


# -- padding, where most of it comes in -----------------------------------------------------------


class Mean(nn.Module):
    """Adds to each step the mean over all: those of the clip, or of its padding too."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, x: Tensor, within: Tensor) -> Tensor:
        counted = within[..., None].float() if self.masked else torch.ones_like(x[..., :1])
        return x / 20 + 100 * (x * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True)


class Averaging(nn.Module):
    """Two convolutions, of which the second reads what the first makes of padding, then a mean."""

    def __init__(self, dim: int, vocabulary: int, *, masked: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(dim, 32, 5, padding=2)
        self.second = nn.Conv1d(32, 32, 5, padding=2)
        self.mean, self.head = Mean(masked=masked), nn.Linear(32, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.second(torch.tanh(self.first(features.transpose(1, 2)))).transpose(1, 2)
        x = self.head(self.mean(x, inside(frames, features.shape[1])))
        return x.log_softmax(-1).transpose(0, 1), frames


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("masked", "told"), [(False, ("failure", "mean")), (True, ("warning", "second"))]
)
def test_a_grave_leak_of_padding_is_put_where_it_is_made_and_not_where_padding_is_first_read(
    masked: bool, told: tuple[str, str], seed: int
) -> None:
    of = subject(lambda d, v: Averaging(d, v, masked=masked), "averaging")
    findings = check(of, of.samples[:12], seed=seed)
    leak = next(one for one in findings if one.name == "padding_leak")
    assert (leak.severity, leak.module) == told


# -- numbers that grow --------------------------------------------------------------------------------


class Growing(nn.Module):
    """A recurrence that multiplies what it holds at each step."""

    def __init__(self, dim: int, factor: float) -> None:
        super().__init__()
        self.into, self.factor = nn.Linear(dim, dim), factor

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros(()), []
        for step in self.into(x).unbind(1):
            state = torch.relu(step + self.factor * state)
            states.append(state)
        return torch.stack(states, 1)


class Recurring(nn.Module):
    def __init__(self, dim: int, vocabulary: int, factor: float) -> None:
        super().__init__()
        self.front, self.recurrence = nn.Linear(dim, dim), Growing(dim, factor)
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.head(self.recurrence(self.front(features)))
        return x.log_softmax(-1).transpose(0, 1), frames


def test_a_recurrence_that_grows_without_bound_is_named_and_no_lost_place() -> None:
    names = [one.name for one in found(subject(lambda d, v: Recurring(d, v, 0.9), "fading"))]
    assert "exploding_signal" not in names
    growing = found(subject(lambda d, v: Recurring(d, v, 2.5), "growing"))
    first = growing[0]
    assert (first.name, first.module) == ("exploding_signal", "recurrence")
    assert "place_lost" not in {one.name for one in growing}


# -- steps that are cut off and filled up again ---------------------------------------------------


class Packed(nn.Module):
    """A recurrent layer over packed steps, of which it is told `share`; the rest comes out as zeros."""

    def __init__(self, dim: int, vocabulary: int, share: float) -> None:
        super().__init__()
        self.front, self.share = MaskedConv(dim, 32, stride=2), share
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x, steps = self.front(features.transpose(1, 2), frames).transpose(1, 2), halved(frames)
        told = (self.share * steps).long().clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(x, told, batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return self.head(x).log_softmax(-1).transpose(0, 1), steps


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_steps_that_are_not_packed_are_frames_that_are_not_read_and_no_interpolation(
    share: float,
) -> None:
    finding = found(subject(lambda d, v: Packed(d, v, share), "packed"))[0]
    assert finding.name == "skipped_frames"
    assert found(subject(lambda d, v: Packed(d, v, 1.0), "packed")) == []


# -- copies with other targets -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "same_target", "conflict"),
    [(0.01, False, True), (0.01, True, False), (1.0, False, False)],
    ids=["a copy with another target", "a copy", "another clip"],
)
def test_a_copy_with_a_little_noise_and_another_target_is_a_conflict(
    noise: float, same_target: bool, conflict: bool
) -> None:
    own = clips(6)
    copy = replace(
        own[1 if not same_target else 0],
        name="copy",
        features=own[0].features
        + noise * torch.randn(own[0].features.shape, generator=torch.Generator().manual_seed(3)),
    )
    names = [one.name for one in found(bigru(samples=[*own, copy]))]
    assert ("conflicting_samples" in names) == conflict


# -- weights that are rounded, and decoders that miss an end -----------------------------------------


class Binarised(nn.Module):
    """A linear layer whose weights are their signs; through: with the slope of the weights."""

    def __init__(self, width: int, *, through: bool) -> None:
        super().__init__()
        self.weight, self.through = nn.Parameter(torch.randn(width, width)), through
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.sign(self.weight)
        sign = self.weight + (sign - self.weight).detach() if self.through else sign
        return self.norm(F.linear(x, sign))


class Signs(BiGRU):
    def __init__(self, dim: int, vocabulary: int, *, through: bool) -> None:
        super().__init__(dim, vocabulary)
        self.signs = Binarised(dim, through=through)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.signs(features), frames)


def test_weights_that_are_rounded_before_they_are_used_are_named_beside_a_norm_that_learns() -> (
    None
):
    finding = found(subject(lambda d, v: Signs(d, v, through=False), "signs"))[0]
    assert (finding.name, finding.module) == ("detached_branch", "signs")
    through = found(subject(lambda d, v: Signs(d, v, through=True), "signs"))
    assert "detached_branch" not in {one.name for one in through}


@pytest.mark.parametrize("end", ["first", "last"])
def test_a_decoder_that_leaves_out_a_token_at_an_end_is_named_as_that(end: str) -> None:
    def decode(log_probs: Tensor, steps: Tensor) -> list[list[int]]:
        kept = slice(1, None) if end == "first" else slice(None, -1)
        return [
            [
                int(token)
                for token in torch.unique_consecutive(path[:length])
                if token or length == 0
            ][kept if path[0 if end == "first" else length - 1] else slice(None)]
            for path, length in zip(log_probs.argmax(-1).T, steps.tolist(), strict=True)
        ]

    finding = only(bigru(decode=decode))
    assert finding.name == "wrong_decoder"
    assert f"read at the {end} step" in finding.headline


# -- other precisions --------------------------------------------------------------------------------


def test_a_network_in_double_precision_is_given_features_of_its_own_kind() -> None:
    class Double(nn.Module):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(dim, 32, batch_first=True), nn.Linear(32, vocabulary)
            self.double()

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(self.rnn(features)[0]).log_softmax(-1).transpose(0, 1), frames

    assert "network_fails" not in {one.name for one in found(subject(Double, "double"))}


# -- a loss with one number of steps for all clips ---------------------------------------------------


@pytest.mark.parametrize("of_all", [torch.amin, torch.amax, None])
def test_a_loss_with_one_number_of_steps_for_all_clips_has_wrong_steps(
    of_all: Callable[[Tensor], Tensor] | None,
) -> None:
    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        told = steps if of_all is None else torch.full_like(steps, int(of_all(steps)))
        return F.ctc_loss(
            log_probs[: int(told.max())], targets, told, target_lengths, zero_infinity=True
        )

    findings = found(bigru(loss=loss))
    assert (findings[0].name if findings else None) == (None if of_all is None else "wrong_steps")
