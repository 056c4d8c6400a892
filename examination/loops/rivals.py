"""`python -m examination.loops.rivals`: what other tools say of the same texts, a line each in
`logs/loop_rivals.jsonl`.

torch-preflight reads the text; torch-audit watches forty steps of the training through its
autopatch; torchtest2 is given the network, loss, first batch and optimiser; Lightning's
overfit_batches trains on four. Run it where they are installed: `pip install
"pytest-overfit[rivals]"`.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from examination.loops.catalogue import changes
from examination.loops.planting import KINDS, Change, Kind, planted

RESULTS = Path("logs/loop_rivals.jsonl")
CLIPS, BATCH, STEPS = 5, 4, 40
FEW, EPOCHS_OF_FEW = 4, 60
"""Of one batch alone the sound text is accused as well: its schedule counts in epochs."""
LEARNED = 0.1
"""Share of its first loss that a batch is learned at: torchtest2's own bound."""


def static(kind: Kind, module: ModuleType) -> set[str]:
    """The rules that torch-preflight says are broken."""
    command = [
        str(Path(sys.executable).with_name("torch-preflight")),
        "check",
        str(module.__file__),
        "--format",
        "json",
    ]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return {
        str(one.get("code") or one.get("rule") or one.get("rule_id")) for one in said["diagnostics"]
    }


def watched(kind: Kind, module: ModuleType) -> set[str]:
    """The rules that torch-audit says are broken in the first steps."""
    from torch_audit import autopatch

    auditors: list[Any] = []
    network, run = training(kind, module)

    def attach(optimizer: Any) -> None:
        if not auditors:
            auditors.append(
                autopatch(
                    network,
                    optimizer=optimizer,
                    every_n_steps=1,
                    reporters=[],
                    suppress_internal_errors=True,
                )
            )

    with before_steps(attach):
        failed = raised(lambda: list(islice(run, STEPS)))
    found = {
        finding.rule_id for auditor in auditors for finding in auditor.finish(report=False).findings
    }
    return found | failed


def checked(kind: Kind, module: ModuleType) -> set[str]:
    """The checks of torchtest2 that fail or warn."""
    import torchtest2
    from torchtest2.plugins import LightningPlugin

    given: dict[str, Any]
    if kind == "lightning":
        torch.manual_seed(0)
        network, given = (
            module.Module(),
            {"plugin": LightningPlugin(lambda inputs, labels: inputs | labels)},
        )
    else:
        network, optimizer = before_its_first_step(kind, module)
        losses: dict[str, Callable[[Any, Any, Any], Any]] = {
            "generator": lambda network, inputs, labels: module.loss_of(network, inputs | labels),
            "huggingface": lambda network, inputs, labels: network(**inputs, **labels)["loss"],
        }
        given = {
            "loss_fn": lambda loss, _: loss,
            "optimizer": optimizer,
            "forward_fn": losses[kind],
        }
    batch = next(iter(loader(module)))
    labels = {
        name: value
        for name, value in batch.items()
        if name in ("targets", "target_lengths", "labels")
    }
    inputs = {name: value for name, value in batch.items() if name not in labels}
    reports: list[Any] = []

    def check() -> None:
        called = {
            "eval_forward_fn": lambda network, inputs: outputs(network(**inputs)),
            "output_batch_dim": 0 if kind == "huggingface" else 1,
        }
        reports.append(torchtest2.check_model(network, inputs, labels, **called, **given))

    failed = raised(check)
    return failed | {
        result.name for report in reports for result in (*report.failures, *report.warnings)
    }


def before_its_first_step(kind: Kind, module: ModuleType) -> tuple[Any, Any]:
    """The network and the optimiser as the loop makes it; None where it makes no step."""
    optimizers: list[Any] = []

    class Found(Exception):
        pass

    def find(optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group.get(
                "initial_lr", group["lr"]
            )  # as it is before any warm-up: no schedule is asked for
        optimizers.append(optimizer)
        raise Found

    network, run = training(kind, module)
    with before_steps(find):
        raised(lambda: list(islice(run, 1)))
    return network, optimizers[0] if optimizers else None


def outputs(said: Any) -> Any:
    return said["logits"] if isinstance(said, dict) else said[0]


def overfit_batches(kind: Kind, module: ModuleType) -> set[str] | None:
    """Whether a few batches are not learned by a Trainer with overfit_batches; None where the
    training is no LightningModule.
    """
    if kind != "lightning":
        return None
    import lightning as L

    losses: list[float] = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"] if isinstance(outputs, dict) else outputs))

    torch.manual_seed(0)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    settings = {
        **module.TRAINER,
        **quiet,
        "overfit_batches": FEW,
        "max_epochs": EPOCHS_OF_FEW,
        "limit_val_batches": 0,
    }
    failed = raised(
        lambda: L.Trainer(**settings, callbacks=[Losses()]).fit(
            module.Module(), datamodule=module.Data()
        )
    )
    return failed or (
        {"not learned"} if not losses or max(losses[-FEW:]) > LEARNED * losses[0] else set()
    )


RIVALS: dict[str, Callable[[Kind, ModuleType], set[str] | None]] = {
    "torch-preflight": static,
    "torch-audit": watched,
    "torchtest2": checked,
    "lightning": overfit_batches,
}


def training(kind: Kind, module: ModuleType) -> tuple[Any, Iterator[float]]:
    """The team's network and its training on the first clips."""
    from pytest_overfit.loop import huggingface, lightning

    torch.manual_seed(0)
    if kind == "generator":
        network = module.Network()
        return network, module.train(network, loader(module))
    if kind == "lightning":
        network = module.Module()
        return network, lightning.steps_of(module.TRAINER)(network, loader(module))
    network = module.Model()
    return network, huggingface.steps_of(
        module.arguments(tempfile.gettempdir()), module.OurTrainer
    )(network, loader(module))


def loader(module: ModuleType) -> DataLoader[Any]:
    clips = module.Clips()
    cut = Subset(clips, [index % CLIPS for index in range(len(clips))])
    return DataLoader(cut, batch_size=BATCH, collate_fn=module.collate)


@contextmanager
def before_steps(hook: Callable[[Any], None]) -> Iterator[None]:
    """`hook(optimizer)` before each step of any optimiser."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    handle = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: hook(optimizer))
    try:
        yield
    finally:
        handle.remove()


def raised(call: Callable[[], Any]) -> set[str]:
    """The error that a call ended in, as something that was said."""
    try:
        call()
    except Exception as error:
        return {f"raised {type(error).__name__}"}
    return set()


def examine(job: tuple[str, Kind, Change, Path]) -> dict[str, Any] | None:
    """A row of results; None where the rival has nothing to do with such a training.

    job: the rival, the kind of training, what is planted in it, and where to write its text.
    """
    rival, kind, change, folder = job
    said = RIVALS[rival](kind, planted(kind, change, folder))
    if said is None:
        return None
    return {
        "rival": rival,
        "version": version(rival),
        "kind": kind,
        "name": change.name,
        "said": sorted(said),
    }


def main(kinds: Iterable[Kind]) -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done = {(row["rival"], row["kind"], row["name"]) for row in rows()}
    RESULTS.parent.mkdir(exist_ok=True)
    installed = [rival for rival in RIVALS if _is_installed(rival)]
    jobs = [
        (rival, kind, change)
        for rival in installed
        for kind in kinds
        for change in changes(kind)
        if (rival, kind, change.name) not in done
    ]
    # A process for each: some faults leave torch's own state changed, gradients switched off say.
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool,
    ):
        for row in pool.imap(examine, [(*job, Path(folder)) for job in jobs], chunksize=1):
            if row is None:
                continue
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row["rival"], row["kind"], row["name"], *row["said"], flush=True)
    return 0


def _is_installed(rival: str) -> bool:
    try:
        version(rival)
    except PackageNotFoundError:
        print(f"{rival} is not installed: left out")
        return False
    return True


def rows() -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
        if RESULTS.exists()
        else []
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or KINDS))
