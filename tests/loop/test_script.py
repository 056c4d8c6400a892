"""A training script under test: driven as it is, read from outside, and the process left as it was."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from pytest_overfit.climb.criteria import criteria_for
from pytest_overfit.climb.ladder import Outcome, Rung
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.script.process import CannotDrive, read_command
from pytest_overfit.loop.script.subject import subject_of
from pytest_overfit.loop.training import LoopTraining, recipe_of_loop
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject, collate
from tests.loop.scripts import written

FORWARD = (
    "    def forward(self, features):\n        return self.out(self.rnn(features)[0])\n",
    "    def forward(self, features, frames, targets, lengths):\n"
    "        log_probs = self.out(self.rnn(features)[0]).log_softmax(2).transpose(0, 1)\n"
    "        return nn.functional.ctc_loss(log_probs, targets, frames, lengths)\n",
)
TAKEN = (
    '            logits = network(features.to("cuda"))\n'
    "            loss = criterion(logits.log_softmax(2).transpose(0, 1), targets, frames, lengths)\n"
)
CALLED = (TAKEN, '            loss = network(features.to("cuda"), frames, targets, lengths)\n')
VALIDATED = ('                logits = network(features.to("cuda"))\n', "                pass\n")
TRAIN = "DataLoader(Clips(40), batch_size=4, shuffle=True, collate_fn=collate, num_workers=2)"
MAIN = '\nif __name__ == "__main__":\n    main()\n'


def climbed(subject: Subject, samples: int) -> Outcome:
    assert subject.loop is not None
    recipe = recipe_of_loop(default_recipe(samples), subject.loop)
    criteria = criteria_for(samples)
    return Rung(subject=subject, samples=samples, recipe=recipe, criteria=criteria).climb()


def test_a_script_is_driven_as_it_is(tmp_path: Path) -> None:
    subject = subject_of(f"{written(tmp_path)} --epochs 100", clips=5)
    assert subject.name == "train"
    assert len(subject.vocabulary) == 8
    assert [len(sample.target) for sample in subject.take(5)] == [2, 3, 4, 2, 3]
    assert [sample.features.shape for sample in subject.take(2)] == [(8, 6), (12, 6)]
    assert findings_of_loop(subject) == ()
    outcome = climbed(subject, 2)
    assert outcome.status == "ok"
    assert outcome.telling.controls, "the inputs can be swapped"


def test_what_is_read_is_what_the_script_computes(tmp_path: Path) -> None:
    """Clips of several lengths, each as its network sees it alone."""
    subject = subject_of(str(written(tmp_path)), clips=4)
    batch = collate(subject.take(4))
    network = subject.fresh(feature_dim=6, seed=0)
    log_probs, steps = subject.log_probs(network, batch.features, batch.frames)
    assert steps.tolist() == batch.frames.tolist() == [8, 12, 16, 8]
    alone = network(batch.features[:1, :8]).log_softmax(2)[0]
    assert torch.allclose(log_probs[:8, 0], alone, atol=1e-5)


def test_a_network_that_takes_the_loss_itself_is_read_at_its_ctc(tmp_path: Path) -> None:
    subject = subject_of(str(written(tmp_path, FORWARD, CALLED, VALIDATED)), clips=3)
    assert [sample.target.tolist() for sample in subject.take(3)] == [
        sample.target.tolist() for sample in subject_of(str(written(tmp_path)), clips=3).take(3)
    ]
    assert climbed(subject, 1).status == "ok"


def test_a_fault_of_a_script_is_told_with_its_line(tmp_path: Path) -> None:
    script = written(tmp_path, ("            optimizer.zero_grad()\n", ""))
    (finding, *_) = findings_of_loop(subject_of(str(script), clips=8))
    assert (finding.name, finding.part) == ("stale_gradient", "accumulation")
    assert "train.py:58)" in finding.headline


def test_targets_of_batch_mates_are_told_from_outside(tmp_path: Path) -> None:
    mixed = (
        "    features, targets = zip(*items)\n",
        "    features, targets = zip(*items)\n    targets = targets[::-1]\n",
    )
    names = [
        one.name for one in findings_of_loop(subject_of(str(written(tmp_path, mixed)), clips=8))
    ]
    assert names == ["targets_mixed_up"]


def test_only_the_first_samples_are_drawn_and_an_epoch_keeps_its_length(tmp_path: Path) -> None:
    subject = subject_of(str(written(tmp_path)), clips=4)
    assert subject.loop is not None
    assert len(subject.loop.loader) == 10
    drawn = []
    recipe = recipe_of_loop(default_recipe(3), subject.loop)
    training = LoopTraining(subject, subject.take(3), recipe, seed=0)
    for _ in training.advance(12):
        drawn += training.drawn
    training.close()
    assert set(drawn) == {0, 1, 2}


def test_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("LOADED = True\n", encoding="utf-8")
    changing = (
        "def main():\n",
        "def main():\n    import os, random, sys, helper\n    os.environ['LEFT'] = '1'\n    os.chdir('/')\n"
        "    random.seed(3)\n    torch.manual_seed(3)\n    sys.path.append('/nowhere')\n",
    )
    before = _state()
    subject = subject_of(str(written(tmp_path, changing)), clips=2)
    assert climbed(subject, 1).status == "ok"
    assert _state() == before
    assert "helper" not in sys.modules
    assert not (tmp_path / "best.pt").exists()
    assert "LEFT" not in os.environ


def _state() -> tuple[object, ...]:
    return (
        list(sys.argv),
        list(sys.path),
        os.getcwd(),
        sys.modules["__main__"],
        random.getstate(),
        torch.random.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.ctc_loss,
        torch.save,
        DataLoader.__init__,
    )


STREAM = (
    ("class Clips(Dataset)", "class Clips(torch.utils.data.IterableDataset)"),
    (
        "    def __len__(self):\n",
        "    def __iter__(self):\n        return iter(self.items)\n\n    def __len__(self):\n",
    ),
    (TRAIN, TRAIN.replace(" shuffle=True,", "")),
)
PARSED = "    options = parser.parse_args()\n"
ALONE = f"{PARSED}    import multiprocessing\n    multiprocessing.Process(target=print).start()\n"
APART = TAKEN.replace("network(", "network.out(network.rnn(").replace('"))\n', '"))[0])\n')
WHY = {
    "no_loader": (((TRAIN, "[collate([Clips(4)[0]] * 2)] * 9"),), "drawn from no torch DataLoader"),
    "no_ctc": (
        ((TAKEN, "            loss = network(features).mean()\n"),),
        "none led to torch's CTC",
    ),
    "two_modules": (((TAKEN, APART),), "GRU and Linear one after the other"),
    "unknown_output": (
        ((TAKEN, TAKEN.replace("logits.l", "(3 * logits).l")),),
        "read from outside",
    ),
    "no_step": ((("            optimizer.step()\n", ""),), "no step of a torch optimiser"),
    "stream": (STREAM, "is a stream"),
    "exit": (((PARSED, "    raise SystemExit(3)\n"),), "exit code 3"),
    "raises": (
        ((PARSED, "    raise KeyError('clips')\n"),),
        r"KeyError: 'clips' \(.*train.py:\d+\)",
    ),
    "processes": (((PARSED, ALONE),), "processes of its own"),
    "nothing_runs": (((MAIN, "\n"),), "no torch DataLoader"),
}


@pytest.mark.parametrize(("edits", "why"), WHY.values(), ids=WHY)
def test_why_a_script_cannot_be_driven_is_one_line(
    edits: tuple[tuple[str, str], ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(CannotDrive, match=why) as raised:
        subject_of(str(written(tmp_path, *edits)), clips=2)
    assert "\n" not in str(raised.value)
    assert "train.py" in str(raised.value)


def test_a_command_is_a_file_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_command("train.py --name 'a b'").arguments == ("--name", "a b")
    assert read_command("-m train --epochs 3").path == tmp_path / "train.py"
    with pytest.raises(CannotDrive, match=r"no file absent\.py"):
        read_command("absent.py")


OPENED_ONCE = (
    MAIN,
    "\nimport sys\nif hasattr(sys, 'opened'):\n"
    "    raise OSError('the data is already open in this process')\nsys.opened = True\n" + MAIN,
)


def test_a_script_that_cannot_run_twice_is_told_so_and_accused_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys, "opened", raising=False)
    try:
        subject = subject_of(f"{written(tmp_path, OPENED_ONCE)} --epochs 100", clips=5)
        with pytest.raises(CannotDrive, match=r"run again in the same process.*already open"):
            findings_of_loop(subject)
    finally:
        del sys.opened  # type: ignore[attr-defined]
