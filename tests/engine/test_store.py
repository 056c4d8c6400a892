"""The store that a session's processes share: whole files, one claim at a time, and none that
outlives its process.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading

import pytest

from pytest_overfit import Outcome, Recipe
from pytest_overfit.atomic_files import write_whole
from pytest_overfit.climb.ladder import Attempt, Detour, Ended, Progress, SecondClip, Verdict
from pytest_overfit.climb.quiet import Quieted
from pytest_overfit.finding import Finding
from pytest_overfit.levels import Level
from pytest_overfit.plugin.live import progress_text, read_progress
from pytest_overfit.plugin.store import Store, outcome_from_json, outcome_to_json
from pytest_overfit.training import Reading, Trace


def attempt(**changes):
    reading = Reading(
        step=9,
        loss=math.inf,
        token_error_rate=0.5,
        exact_share=0.0,
        nearest_target_share=math.nan,
        emission_ratio=1.0,
        blank_share=0.9,
        entropy_ratio=0.1,
        normalisation_error=0.0,
    )
    fields = {
        "seed": 3,
        "recipe": Recipe(layer_lr={"head": 0.1}, network={"hidden_dim": 32}, fallbacks=(0.5,)),
        "steps": 9,
        "seconds": 1.5,
        "held": False,
        "verdicts": (Verdict(name="loss", sign="<", bound=1.0, value=math.inf, held=False),),
        "trace": Trace(
            losses=[3.0, math.nan], gradient_norms=[1.0, 2.0], lrs=[0.1, 0.2], readings=[reading]
        ),
        "ended": Ended.NOT_FINITE,
        "why": "the loss is nan at step 9",
    }
    return Attempt(**{**fields, **changes})


OUTCOME = Outcome(
    subject="toy",
    samples=10,
    status="broken",
    attempts=(
        attempt(),
        attempt(
            seed=4,
            ended=None,
            detour=Detour(level=Level(name="repeats merged", loss=0.2), step=8, path_steps=3),
            second_clip=SecondClip(sample="c2", steps=7),
            quieted=Quieted(noise=0.7, token_error_rate=0.33, nats=0.4),
        ),
    ),
    findings=(
        Finding(
            name="time_collapse",
            headline="c1 does not fit",
            evidence=("c1: 12 > 11",),
            samples=("c1",),
        ),
    ),
    parameters=17,
    where="model.py:3",
)


def test_an_outcome_comes_back_from_json_as_it_went():
    back = outcome_from_json(json.loads(json.dumps(outcome_to_json(OUTCOME))))
    assert repr(back) == repr(OUTCOME)


def test_what_one_process_puts_another_gets(tmp_path):
    Store(tmp_path).put("key", OUTCOME)
    assert repr(Store(tmp_path).get("key", 10)) == repr(OUTCOME)
    assert Store(tmp_path).get("key", 20) is None
    assert Store(tmp_path).get("other", 10) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/b.py::test-x", "a_b.py::test-x"),
        ("t-gru 1", "t-gru_1"),
        ("x" * 300 + "a", "x" * 300 + "b"),
    ],
)
def test_keys_that_look_alike_as_file_names_are_two_ladders(tmp_path, one, other):
    Store(tmp_path).put(one, OUTCOME)
    assert Store(tmp_path).get(one, 10)
    assert Store(tmp_path).get(other, 10) is None


def test_a_file_is_seen_whole_or_as_it_was_before(tmp_path):
    path = tmp_path / "file.json"
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            if path.exists():
                seen.add(len(path.read_text(encoding="utf-8")))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        write_whole(path, "a" * 200_000)
        write_whole(path, "b" * 300_000)
    stop.set()
    reader.join()
    assert seen <= {200_000, 300_000}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_a_rung_is_claimed_by_one_at_a_time(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path)
    with (
        store.claim("key", 10) as mine,
        other.claim("key", 10) as theirs,
        other.claim("key", 20) as another,
    ):
        assert (mine, theirs, another) == (True, False, True)
    with other.claim("key", 10) as now:
        assert now


CLAIM_AND_WAIT = """
import sys, time
from pathlib import Path
from pytest_overfit.plugin.store import Store
with Store(Path(sys.argv[1])).claim("key", 10) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_the_claim_of_a_killed_process_is_free_again(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline().strip() == "True"
        with Store(tmp_path).claim("key", 10) as mine:
            assert not mine
        os.kill(process.pid, signal.SIGKILL)
    with Store(tmp_path).claim("key", 10) as mine:
        assert mine


def test_each_process_leaves_word_of_where_it_stands(tmp_path):
    store = Store(tmp_path)
    for step in (3, 4):
        store.show(
            "toy",
            Progress(
                samples=10,
                seed=0,
                lr=5e-3,
                step=step,
                budget=400,
                loss=2.345,
                token_error_rate=math.nan,
            ),
        )
    (row,) = read_progress(tmp_path)
    assert progress_text(row) == "toy 10 samples, step 4/400, lr 0.005, loss 2.35, WER not read yet"


@pytest.mark.parametrize(
    ("samples", "step", "told"),
    [(1, 400, "toy 1 sample, step 400/400"), (2, 401, "toy 2 samples, step 401, in overtime")],
)
def test_a_climb_past_its_budget_is_told_to_be_in_overtime(
    samples: int, step: int, told: str
) -> None:
    row = {"subject": "toy", "samples": samples, "step": step, "budget": 400, "lr": 1e-3}
    text = progress_text({**row, "loss": 2.0, "token_error_rate": 0.5})
    assert text == f"{told}, lr 0.001, loss 2, WER 50 %"
