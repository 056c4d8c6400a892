"""Contracts on passes that would not be honest, in their parts: what they count, what they let be,
and how they say it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.examine import check, examine
from pytest_overfit.findings.gradients import TRUE_GRADIENTS
from pytest_overfit.findings.targets import targets_differ
from pytest_overfit.plugin import findings_text
from pytest_overfit.subject import Sample, Subject
from tests.engine.dishonest import (
    DISHONEST,
    FILLER,
    HELD_OUT,
    Rounded,
    filled,
    gradient_of,
    logits_of,
    without_first_clip,
)
from tests.engine.foreign import Augmented, Recurrent
from tests.engine.planting import forwarded, rebuilt
from tests.engine.subjects import BiGRU, bigru, clips, subject

BY_NAME = {fault.name: fault.plant for fault in (*DISHONEST, *HELD_OUT)}
FEW = 6


def found(subject: Subject) -> list[str]:
    return [
        finding.name
        for finding in check(
            subject, clips(FEW) if callable(subject.samples) else subject.samples[:FEW]
        )
    ]


@pytest.mark.parametrize("fault", [fault.name for fault in DISHONEST])
def test_a_finding_reads_well(fault: str, snapshot: Any) -> None:
    """Numbers that hang on the processor are left out."""
    subject = BY_NAME[fault](bigru(samples=clips(FEW)))
    (finding,) = check(subject, subject.samples)  # type: ignore[arg-type]
    body = findings_text.findings_body([finding])
    assert [
        line for line in body.splitlines() if not any(character.isdigit() for character in line)
    ] == snapshot


@pytest.mark.parametrize(
    ("fault", "said", "code"),
    [
        ("net-rows-as-time", "lost after look and before enter", "permute"),
        ("net-reshaped", "lost after enter and before head", "reshape"),
        ("net-backwards", "lost after head", "flip"),
        ("net-turned", "lost in both before both.back", "flip"),
    ],
)
def test_where_the_place_is_lost_is_told_with_the_line_of_code(
    fault: str, said: str, code: str
) -> None:
    subject = BY_NAME[fault](bigru(samples=clips(FEW)))
    (finding,) = [f for f in check(subject, clips(FEW)) if f.name == "place_lost"]
    assert finding.headline.endswith(said)
    (line,) = [line for line in finding.evidence if line.startswith("there: ")]
    assert f"{code} (tests/engine/dishonest.py:" in line


def test_a_place_is_lost_also_where_norms_without_statistics_leave_next_to_nothing() -> None:
    """In eval mode a fresh network of five faint layers says the same of any clip, but for rounding."""

    class Faint(nn.Module):
        def __init__(self, dim: int, vocabulary: int, *, renamed: bool) -> None:
            super().__init__()
            layers = [
                layer
                for i in range(5)
                for layer in (nn.Conv1d(32 if i else dim, 32, 3, padding=1), nn.BatchNorm1d(32))
            ]
            self.stack, self.renamed = nn.Sequential(*layers), renamed
            for layer in layers[::2]:
                nn.init.normal_(layer.weight, std=2e-3)
            self.gru = nn.GRU(32, 32, batch_first=True, bidirectional=True)
            self.head = nn.Linear(64, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            x = self.stack(features.transpose(1, 2))
            x = x.reshape(len(x), -1, 32) if self.renamed else x.transpose(1, 2)
            return self.head(self.gru(x)[0]).log_softmax(-1).transpose(0, 1), frames

    def place_lost(*, renamed: bool) -> list[str]:
        faint = subject(lambda dim, v: Faint(dim, v, renamed=renamed), "faint")
        return [f.headline for f in check(faint, clips(FEW)) if f.name == "place_lost"]

    (headline,) = place_lost(renamed=True)
    assert headline.endswith("lost after stack and before gru")
    assert place_lost(renamed=False) == []


def test_a_table_of_places_that_reaches_nothing_is_named() -> None:
    subject = BY_NAME["net-unplaced"](bigru(samples=clips(FEW)))
    (finding,) = check(subject, clips(FEW))
    assert finding.headline.endswith("the table of places places.table reaches nothing")


def test_an_estimator_that_is_declared_is_let_be() -> None:
    rounded = rebuilt(Rounded)(bigru(samples=clips(FEW)))
    assert found(rounded) == ["false_gradient"]
    assert found(replace(rounded, straight_through=("encoder",))) == []


def test_a_declaration_excuses_nothing_behind_it() -> None:
    faulty = gradient_of("conv", lambda gradient: -gradient)(bigru(samples=clips(FEW)))
    assert found(replace(faulty, straight_through=("encoder",))) == ["false_gradient"]


def test_a_layer_that_rests_on_its_kink_is_not_accused() -> None:
    class AtRest(BiGRU):
        """Silence, no bias, and a ReLU: many units stand at exactly zero, where a ReLU has no
        slope.
        """

        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.enter = nn.Linear(dim, dim)
            nn.init.zeros_(self.enter.bias)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(self.enter(features).relu(), frames)

    silent = [
        replace(s, features=s.features * (s.features.abs().amax(1, keepdim=True) > 0.5))
        for s in clips(FEW)
    ]
    assert found(rebuilt(AtRest)(bigru(samples=silent))) == []


def test_a_kink_hides_no_silent_clip() -> None:
    class Kinked(BiGRU):
        """Behind a norm, silence stands on the kink of a ReLU, whatever the norm is scaled by."""

        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.enter = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU())
            nn.init.zeros_(self.enter[0].bias)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(features + self.enter(features), frames)

    silent = [
        replace(s, features=s.features * (s.features.abs().amax(1, keepdim=True) > 0.5))
        for s in clips(FEW)
    ]
    sound = rebuilt(Kinked)(bigru(samples=silent))
    assert found(sound) == []
    for part in ("conv", "enter"):
        assert found(gradient_of(part, without_first_clip)(sound)) == ["false_gradient"]


def test_logits_that_are_clipped_only_once_they_are_sure_are_called_so() -> None:
    def clamped(out: Tensor, steps: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return (out - out.mean(-1, keepdim=True)).clamp(-3, 3).log_softmax(-1), steps

    assert found(forwarded(bigru(samples=clips(FEW)), clamped)) == ["clipped_output"]


def test_a_rectifier_behind_rectified_layers_is_told_with_its_module() -> None:
    class Rectified(nn.Module):
        """A layer and its own rectifier, as a function."""

        def __init__(self, width: int, wide: int) -> None:
            super().__init__()
            self.linear = nn.Linear(width, wide)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.linear(x))

    class Stack(nn.Module):
        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__()
            self.conv = nn.Conv1d(dim, 48, 5, padding=2)
            self.deep, self.last = Rectified(48, 48), Rectified(48, vocabulary)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.relu(self.conv(features.transpose(1, 2))).transpose(1, 2)
            return self.last(self.deep(x)).log_softmax(-1).transpose(0, 1), frames

    findings = check(rebuilt(Stack)(bigru(samples=clips(FEW))), clips(FEW))
    clipped = next(finding for finding in findings if finding.name == "clipped_output")
    assert clipped.module == "last"


def test_a_layer_that_is_skipped_now_and_then_is_let_be() -> None:
    class Dropping(BiGRU):
        """LayerDrop at a half, the most that is usual."""

        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary)
            self.extra = nn.Linear(dim, dim)

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            if not self.training or torch.rand(()) > 0.5:
                features = features + self.extra(features)
            return super().forward(features, frames)

    assert found(rebuilt(Dropping)(bigru(samples=clips(FEW)))) == []


def test_a_gradient_that_float32_cannot_hold_is_no_division_by_zero() -> None:
    class Long(Recurrent):
        """Weights that a clip's length raises to a power; a norm hides it from the output."""

        def __init__(self, dim: int, vocabulary: int) -> None:
            super().__init__(dim, vocabulary, packed=True)
            self.loud = nn.Parameter(torch.full((), 8.0))

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            for _ in range(30):
                features = F.layer_norm(features, features.shape[-1:]) * self.loud / 8
                features = features + (features - features.detach()) * 1e4
            return super().forward(features, frames)

    (finding,) = check(logits_of(Long)(bigru(samples=clips(FEW))), clips(FEW))
    assert (finding.name, finding.status) == ("exploding_signal", "confirmed")


def test_a_network_that_cannot_be_double_is_skipped_with_the_reason() -> None:
    class Single(Recurrent):
        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            if features.dtype != torch.float32:
                raise TypeError("float32 alone")
            return super().forward(features, frames)

    subject = logits_of(lambda d, v: Single(d, v, packed=True))(bigru(samples=clips(FEW)))
    checked = {one.contract.name: one for one in examine(subject, clips(FEW))}
    assert "double precision: float32 alone" in (checked["true gradients"].skipped or "")
    unheld = {name for name, one in checked.items() if not one.held}
    assert unheld == {"true gradients", "same loss on the GPU"}


@pytest.mark.parametrize("cast", [Tensor.float, lambda out: out.bfloat16().to(torch.float32)])
def test_a_false_gradient_is_seen_behind_a_cast_to_float32(cast: Callable[..., Tensor]) -> None:
    """A rounding of numbers to a narrower type is no fault of the gradient."""
    sound = forwarded(
        bigru(samples=clips(FEW)), lambda out, steps, _: (cast(out).log_softmax(-1), steps)
    )
    cut = gradient_of("conv", without_first_clip)(sound)
    (fine,), (wrong,) = (
        examine(subject, clips(FEW), contracts=(TRUE_GRADIENTS,)) for subject in (sound, cut)
    )
    assert (fine.held, fine.skipped) == (True, None)
    assert [finding.name for finding in wrong.findings] == ["false_gradient"]


class InPlace(Recurrent):
    """Masks in place, row by row, on a clone of its input: lawful, and an error where somebody
    wants a gradient of the input.
    """

    def __init__(self, dim: int, vocabulary: int, *, width: int) -> None:
        super().__init__(dim, vocabulary, packed=True)
        self.width = width

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        features = features.clone()
        for clip, length in zip(features, frames.tolist() if self.training else (), strict=False):
            start = int(torch.randint(max(length - self.width, 0) + 1, ()))
            clip[start : start + self.width] = 0
        return super().forward(features, frames)


@pytest.mark.parametrize(("width", "names"), [(4, []), (1000, ["input_destroyed"])])
def test_code_that_writes_in_place_is_judged_by_what_it_masks(width: int, names: list[str]) -> None:
    assert (
        found(logits_of(lambda d, v: InPlace(d, v, width=width))(bigru(samples=clips(FEW))))
        == names
    )


@pytest.mark.parametrize(("masks", "width", "names"), [(2, 10, []), (2, 200, ["input_destroyed"])])
def test_masks_are_judged_by_the_share_they_take(masks: int, width: int, names: list[str]) -> None:
    assert (
        found(
            logits_of(lambda d, v: Augmented(d, v, masks=masks, width=width))(
                bigru(samples=clips(FEW))
            )
        )
        == names
    )


def targets(*lists: list[int]) -> list[Sample]:
    return [
        replace(sample, target=torch.tensor(target))
        for sample, target in zip(clips(len(lists)), lists, strict=True)
    ]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (targets([1, 2, 3], [4, 5, 3], [6, 7, 3], [8, 9, 3]), None),  # a full stop
        (targets([1, 2, 9, 9], [3, 9, 5, 9], [2, 9, 9, 9], [9, 1, 9, 9]), None),  # prices
        (targets([1, 2, 9, 9], [3, 4, 5, 9], [2, 9, 9, 9], [5, 1, 9, 9]), "failure"),
        (targets([9, 9, 1, 2], [9, 3, 4, 5], [9, 9, 9, 2], [9, 9, 5, 1]), "failure"),
        (targets([7], [7, 7], [7, 7, 7], [7]), "warning"),  # counting
        (targets([7, 7], [7, 7], [7, 7], [7, 7]), "failure"),
        (targets([7, 7], [7, 7], [7, 7]), None),  # too few to tell
    ],
)
def test_targets_are_degenerate_only_where_one_token_fills_them(
    samples: list[Sample], expected: str | None
) -> None:
    told = targets_differ(Bench(subject=bigru(samples=samples), samples=tuple(samples)))
    assert [finding.severity for finding in told] == ([expected] if expected else [])


def test_filled_targets_that_do_not_fit_are_blamed_on_their_filling() -> None:
    subject = bigru(samples=filled(20)(clips(FEW)))
    (finding,) = check(subject, subject.samples)  # type: ignore[arg-type]
    assert (finding.name, repr(f"SIGN-{FILLER}") in finding.headline) == (
        "degenerate_targets",
        True,
    )
