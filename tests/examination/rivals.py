"""What other tools say of the same faults in the same network: pytest-torch 1.1.1, torchtest2 0.1.0 and neural-net-checklist 1.1.0.

Each is given the network as a module over (batch, frames, dim), its loss, optimiser and three clips cut to one length: all that their checks ask
for. A check that already fails on the healthy network says nothing, and is left out. `pip install "pytest-overfit[rivals]"` brings them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit import ctc
from pytest_overfit.subject import Subject, all_parameters
from tests.examination.hosts import HOSTS, host_subject, raw
from tests.examination.planted import UNSEEN, faults_for

CLIPS, STEPS = 3, 150
Check = Callable[["Wrapped"], Any]


class Network(nn.Module):
    """A subject's network as a module of one tensor: (batch, frames, dim) -> log-probabilities (batch, steps, vocabulary)."""

    def __init__(self, subject: Subject, dim: int) -> None:
        super().__init__()
        self.inner = subject.fresh(feature_dim=dim, seed=0)
        self.of = [subject]
        self.steps = torch.zeros(0)

    def forward(self, features: Tensor) -> Tensor:
        output, self.steps = self.of[0].log_probs(self.inner, features, torch.full((len(features),), features.shape[1]))
        return output.transpose(0, 1)


class Wrapped:
    """What a rival is given. batch: features (clips, frames, dim), targets (clips, tokens) padded with -1."""

    def __init__(self, subject: Subject) -> None:
        samples = list(raw(subject, CLIPS))
        frames = min(sample.frames for sample in samples)
        self.subject = subject
        self.features = torch.stack([sample.features[:frames] for sample in samples])
        self.targets = nn.utils.rnn.pad_sequence([sample.target for sample in samples], batch_first=True, padding_value=-1)
        self.last = self.network()

    def network(self) -> Network:
        self.last = Network(self.subject, self.features.shape[-1])
        return self.last

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        batch = (output.transpose(0, 1), torch.full((len(output),), output.shape[1]), targets, (targets >= 0).sum(1))
        return self.subject.loss(*batch) if self.subject.loss else ctc.nats_per_token(*batch, blank=self.subject.blank)

    def optimizer(self, network: Network) -> torch.optim.Optimizer:
        trainable = self.subject.trainable or all_parameters
        return torch.optim.Adam([parameter for _, parameter in trainable(network.inner)], lr=5e-3)


def pytest_torch() -> dict[str, Check]:
    import pytest_torch.assertions as assertions
    import pytest_torch.training as training

    def on_outputs(one: Wrapped) -> Callable[[Tensor], Tensor]:
        return lambda output: one.loss(output, one.targets)

    return {
        "gradients are finite": lambda one: training.assert_gradients_finite(one.network(), (one.features,), on_outputs(one)),
        "parameters get gradients": lambda one: training.assert_all_params_receive_grad(one.network(), (one.features,), on_outputs(one)),
        "batch invariant": lambda one: assertions.assert_batch_invariant(one.network().eval(), (one.features,)),
        "loss decreases": lambda one: training.assert_loss_decreases(one.network(), (one.features,), on_outputs(one)),
        "overfits": lambda one: training.assert_overfits_one_batch(one.network(), (one.features,), on_outputs(one), steps=STEPS, lr=5e-3),
    }


def torchtest2() -> dict[str, Check]:
    from torchtest2.model_tester import ModelTester

    def test(name: str, **arguments: Any) -> Check:
        def check(one: Wrapped) -> Any:
            network = one.network()
            return getattr(ModelTester(network, one.loss, one.optimizer(network), [one.features, one.targets], max_epochs=STEPS), name)(**arguments)

        return check

    names = ("parameters_change", "model_output_nan", "model_output_inf", "input_dependency", "batch_independence", "anomaly")
    return {**{name: test(f"test_{name}") for name in names}, "overfit": test("test_overfit", expected_loss=0.5)}


def neural_net_checklist() -> dict[str, Check]:
    import neural_net_checklist.torch_diagnostics as diagnostics

    def batch(one: Wrapped) -> Any:
        return (one.features, one.targets)

    return {
        "forward batch independence": lambda one: diagnostics.assert_forward_batch_independence(one.network, batch(one), device="cpu"),
        "backward batch independence": lambda one: diagnostics.assert_backward_batch_independence(one.network, batch(one), device="cpu"),
        "non-zero gradients": lambda one: diagnostics.assert_non_zero_gradients(one.network(), batch(one), device="cpu"),
        "overfit": lambda one: diagnostics.assert_overfit_to_batch(
            one.network(), batch(one), threshold=0.5, max_steps=STEPS, loss_fn=one.loss, device="cpu"
        ),
    }


RIVALS = {"pytest-torch": pytest_torch, "torchtest2": torchtest2, "neural-net-checklist": neural_net_checklist}


def failing(checks: dict[str, Check], subject: Subject) -> dict[str, str]:
    """The checks that fail on a subject, with the first line of what they say."""
    failed = {}
    for name, check in checks.items():
        torch.manual_seed(0)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                check(Wrapped(subject))
        except Exception as error:  # a rival's verdict, however it is put
            failed[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
    return failed


def table() -> str:
    """Faults planted in the BiGRU x rivals, as Markdown; "" where none is installed."""
    host = HOSTS["bigru"]
    known: dict[str, dict[str, Check]] = {}
    for name, checks in RIVALS.items():
        with contextlib.suppress(ImportError):
            known[name] = checks()
    if not known:
        return ""
    healthy = {name: failing(checks, host_subject(host)) for name, checks in known.items()}
    useful = {name: {title: check for title, check in checks.items() if title not in healthy[name]} for name, checks in known.items()}
    faults = [fault for fault in faults_for(host) if fault.name not in UNSEEN]
    told = {fault.name: {name: failing(checks, fault.plant(host_subject(host))) for name, checks in useful.items()} for fault in faults}
    lines = ["", "## Rivals on the same faults (bigru)", ""]
    for name in known:
        count = sum(bool(told[fault.name][name]) for fault in faults)
        alarms = f"; left out, as they fail on the healthy network: {', '.join(healthy[name])}" if healthy[name] else ""
        lines.append(f"- {name}: {count} of {len(faults)} detected{alarms}")
    lines += ["", "| fault | " + " | ".join(known) + " |", "| --- |" + " --- |" * len(known)]
    lines += [f"| {fault.name} | " + " | ".join(", ".join(told[fault.name][name]) or "-" for name in known) + " |" for fault in faults]
    return "\n".join(lines) + "\n"
