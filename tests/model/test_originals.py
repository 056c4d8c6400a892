"""The specimens still have the faults they are kept for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fixtures import default_samples, default_vocabulary
from model.originals import (
    I3DOriginal,
    MobileNetV3Original,
    create_i3d_original,
    create_mobilenetv3_original,
)
from pytest_overfit.network import first_drop, observe
from pytest_overfit.subject import Sample, Subject

CLIPS, FRAMES = 4, 64


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def between_sample_share(values: Tensor) -> float:
    """Share of the energy that tells clips apart, of (clips, ...)."""
    return float(values.var(0, unbiased=False).mean() / values.square().mean())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [
        replace(sample, features=sample.features[:FRAMES])
        for sample in default_samples(CLIPS, width=6516)
    ]


@pytest.fixture(scope="module")
def student() -> MobileNetV3Original:
    torch.manual_seed(0)
    return create_mobilenetv3_original(973)


@pytest.fixture(scope="module")
def teacher() -> I3DOriginal:
    torch.manual_seed(0)
    return create_i3d_original(973).eval()


def test_the_student_has_the_parameters_of_the_original(student: MobileNetV3Original) -> None:
    assert parameters(student) == 14_404_568
    assert parameters(student.get_submodule("temporal_encoder")) / 14_404_568 == pytest.approx(
        0.87, abs=0.005
    )
    assert parameters(student.blocks) == pytest.approx(90_000, rel=0.01)


def test_the_teacher_has_the_parameters_of_the_original(teacher: I3DOriginal) -> None:
    assert parameters(teacher) == 26_985_596


def test_the_teachers_lstm_ignores_hidden_dim() -> None:
    small = create_i3d_original(973, hidden_dim=256)
    assert parameters(small) == pytest.approx(25.4e6, rel=0.005)
    assert small.lstm.hidden_size == 512


def test_depthwise_weights_are_too_small_by_the_root_of_their_groups(
    student: MobileNetV3Original,
) -> None:
    for block in student.blocks:
        convolution = block.get_submodule("depthwise.0")
        assert isinstance(convolution, nn.Conv1d)
        sound = (2 / convolution.kernel_size[0]) ** 0.5
        assert float(convolution.weight.detach().std()) == pytest.approx(
            sound / convolution.groups**0.5, rel=0.3
        )


def test_in_eval_mode_at_the_start_the_upsampling_drowns_the_signal(
    student: MobileNetV3Original, samples: list[Sample]
) -> None:
    seen: dict[str, Tensor] = {}
    features = torch.stack([sample.features for sample in samples])
    modules = {
        name: student.get_submodule(name) for name in ("stem", "blocks", "temporal_upsample")
    }
    handles = [
        module.register_forward_hook(lambda _m, _x, out, name=name: seen.__setitem__(name, out))
        for name, module in modules.items()
    ]
    student.eval()
    with torch.no_grad():
        student(features, torch.full((CLIPS,), FRAMES))
    for handle in handles:
        handle.remove()
    assert seen["stem"].square().mean().sqrt() > 1
    assert seen["blocks"].square().mean().sqrt() < 1e-2
    assert between_sample_share(seen["blocks"]) > 0.1
    assert between_sample_share(seen["temporal_upsample"]) < 1e-4


def test_without_batch_norm_the_probes_name_the_upsampling(samples: list[Sample]) -> None:
    torch.manual_seed(0)
    network = create_mobilenetv3_original(973, batch_norm=False)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in network.modules())
    subject = Subject(
        name="original",
        build=lambda **_: network,
        samples=lambda n: samples[:n],
        vocabulary=default_vocabulary(),
    )
    drop = first_drop(observe(subject, network, samples, mode="train"))
    assert drop is not None
    assert drop.at.module.startswith("temporal_upsample")
    assert drop.after < 1e-4 < drop.before
    assert {o.module for o in drop.weak} >= {f"blocks.{i}.depthwise.0" for i in (3, 4, 5)}


def test_the_teacher_hides_that_it_keeps_one_step_in_sixteen(teacher: I3DOriginal) -> None:
    seen: list[Tensor] = []
    handle = teacher.blocks.register_forward_hook(lambda _m, _x, out: seen.append(out))
    with torch.no_grad():
        log_probs, steps = teacher(torch.randn(1, 176, 6516), torch.tensor([176]))
    handle.remove()
    assert seen[0].shape[-1] == 11
    assert len(log_probs) == steps.item() == 176


def test_the_teachers_attention_over_time_is_never_called(teacher: I3DOriginal) -> None:
    log_probs, _ = teacher(torch.randn(1, 32, 6516), torch.tensor([32]))
    log_probs.square().mean().backward()
    unused = {name.split(".")[0] for name, p in teacher.named_parameters() if p.grad is None}
    teacher.zero_grad()
    assert unused == {"temporal_attention"}


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_padding_reaches_the_clip(which: str, request: pytest.FixtureRequest) -> None:
    network = request.getfixturevalue(which).eval()
    features, frames = torch.randn(1, 32, 6516), torch.tensor([32])
    padded = torch.cat([features, torch.zeros(1, 32, 6516)], 1)
    with torch.no_grad():
        alone, beside = network(features, frames)[0], network(padded, frames)[0][:32]
    assert (alone - beside).abs().max() > 1e-6


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_other_widths_are_refused(which: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(ValueError, match="6516 features a frame, got 1629"):
        request.getfixturevalue(which)(torch.zeros(1, 8, 1629), torch.tensor([8]))
