"""The checks of each rival, called as its documentation recommends for a sequence model with a loss
and an optimiser of its own.

A check takes what is given and returns what it holds against it: name -> its words; a warning's
name ends in "?". Bounds and lengths are the rivals' own but where a comment says otherwise. Checks
of cross-entropy, causality, deployment, speed and checkpoints have nothing to say here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from examination.rivals_given import Given

Complaints = dict[str, str]
Check = Callable[[Given], Complaints]

MEMORISED, STEPS = 0.1, 400
"""neural-net-checklist trains up to 65,536 steps of Adam down to a loss of 1e-4; its README shows
0.1. Ours has 400 steps for a rung.
"""
ROUNDING = 1e-4
"""How far above 0 a logarithm of a probability may be."""


def raising(check: Callable[[Given], Any]) -> Check:
    """A check that raises where something is wrong."""

    def returning(given: Given) -> Complaints:
        check(given)
        return {}

    return returning


def pytest_torch() -> dict[str, Check]:
    rival: Any = import_module("pytest_torch")

    def contract(given: Given) -> Complaints:
        report = rival.check_inference_contract(
            given.network.eval(), given.inputs, raise_on_failure=False
        )
        return {result.name: result.message for result in report.failures}

    def spec(given: Given) -> None:
        log_probs = rival.Probabilities(("B", "T", given.vocabulary), log=True)
        with torch.inference_mode():
            rival.assert_output_spec(
                given.network.eval()(*given.inputs),
                (log_probs, rival.TensorSpec(("B",))),
                B=len(given.features),
            )

    def padding(given: Given) -> None:
        rival.assert_padding_invariant(
            given.network.eval(), given.named, ids_key="features", mask_key="mask"
        )

    def run(given: Given) -> None:
        def setup() -> Any:
            network = given.fresh()
            return rival.TrainingSetup(network, given.optimizer(network))

        rival.run_training(
            setup, [given.inputs], loss_fn=lambda network, batch: given.loss(network(*batch))
        ).assert_healthy()

    return {
        "contract": contract,
        "output spec": raising(spec),
        "padding invariant": raising(padding),
        "gradients finite": raising(
            lambda given: rival.assert_gradients_finite(given.network, given.inputs, given.loss)
        ),
        "all parameters get gradients": raising(
            lambda given: rival.assert_all_params_receive_grad(
                given.network, given.inputs, given.loss
            )
        ),
        "training run healthy": raising(run),
        "loss decreases": raising(
            lambda given: rival.assert_loss_decreases(
                given.network, given.inputs, given.loss, optimizer=given.optimizer_of
            )
        ),
        "overfits one batch": raising(
            lambda given: rival.assert_overfits_one_batch(
                given.network, given.inputs, given.loss, optimizer=given.optimizer_of
            )
        ),
    }


def torchtest2() -> dict[str, Check]:
    rival: Any = import_module("torchtest2")

    def check_model(given: Given) -> Complaints:
        factory, loss = given.with_one_output()
        network = factory()
        report = rival.check_model(
            network,
            given.inputs,
            given.targets,
            loss_fn=loss,
            optimizer=given.optimizer(network.network),
            output_shape=(None, None, given.vocabulary),
            output_range=(None, ROUNDING),
        )
        warnings = {f"{result.name}?": result.message for result in report.warnings}
        return {**{result.name: result.message for result in report.failures}, **warnings}

    return {"check_model": check_model}


def neural_net_checklist() -> dict[str, Check]:
    rival: Any = import_module("neural_net_checklist.torch_diagnostics")

    def batch(given: Given) -> Any:
        return given.features, given.targets

    def training(given: Given) -> Callable[..., Any]:
        """Its own training with our optimiser, as a function: the argument `optimizer` of its
        checks has no effect in 1.1.0.
        """
        return lambda model, *batch, **settings: rival.train_batch(
            model, *batch, optimizer=given.optimizer(model.network), **settings
        )

    def worse_without_inputs(given: Given) -> None:
        factory, loss = given.with_one_output()
        rival.assert_input_independent_baseline_worse(
            factory, batch(given), loss_fn=loss, train_batch_fn=training(given)
        )

    def overfit(given: Given) -> None:
        factory, loss = given.with_one_output()
        rival.assert_overfit_to_batch(
            factory(),
            batch(given),
            threshold=MEMORISED,
            max_steps=STEPS,
            loss_fn=loss,
            train_batch_fn=training(given),
        )

    return {
        "forward batch independence": raising(
            lambda given: rival.assert_forward_batch_independence(
                given.with_one_output()[0], batch(given)
            )
        ),
        "backward batch independence": raising(
            lambda given: rival.assert_backward_batch_independence(
                given.with_one_output()[0], batch(given)
            )
        ),
        "non-zero gradients": raising(
            lambda given: rival.assert_non_zero_gradients(
                given.with_one_output()[0](), batch(given)
            )
        ),
        "input independent baseline worse": raising(worse_without_inputs),
        "overfit to batch": raising(overfit),
    }


RIVALS: dict[str, Callable[[], dict[str, Check]]] = {
    "pytest-torch": pytest_torch,
    "torchtest2": torchtest2,
    "neural-net-checklist": neural_net_checklist,
}
