"""`python -m examination explaining`: how long a broken rung takes to be explained, beside a sound
climb of the same rungs.

Each fault is planted anew, its rungs are climbed until one breaks, and that one is diagnosed as a
failing test does it. The sound host is climbed beside it in the same process, before and after, so
that a figure is a ratio within one run and knows nothing of the machine. Seconds are the
processor's, and no trial runs out of time: a busy machine must not change what is said.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from examination.hosts import HOSTS, host_subject, raw
from examination.planted import UNSEEN, faults_for
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.explain import trials
from pytest_overfit.explain.diagnosis import diagnose
from pytest_overfit.findings.examine import examine
from pytest_overfit.host import lent
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject
from tests.engine.faults import Fault

RUNGS = (1, 5)


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    trials.LEAST_SECONDS = 3600.0
    known = read(options.results)
    for name in options.networks.split(","):
        host = HOSTS[name]
        sound = host_subject(host)
        faults = [fault for fault in faults_for(host) if fault.name not in UNSEEN][
            options.first :: options.every
        ]
        ends = time.monotonic() + 60 * options.minutes
        for fault in faults:
            if (name, fault.name) not in known and time.monotonic() < ends:
                row = {"network": name, "name": fault.name, **compared(sound, fault)}
                options.results.parent.mkdir(parents=True, exist_ok=True)
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    print("\n".join(told(list(read(options.results).values()))))
    return 0


def compared(sound: Subject, fault: Fault) -> dict[str, Any]:
    """Seconds of a fault and of its host, in turn: contracts, rungs, the diagnosis of the one that
    broke.
    """
    with lent():
        before = session(sound, None)
        try:
            broken = session(fault.plant(sound), fault)
        except Exception:  # what the subject's own code raises in training breaks no rung: a test tells it as an error
            broken = {"error": traceback.format_exc()}
        after = session(sound, None)
    return {"sound": [before, after], "fault": broken}


def session(subject: Subject, fault: Fault | None) -> dict[str, Any]:
    """Seconds of each part, and what came of it."""
    took: dict[str, Any] = {"rungs": {}, "broke_at": None}
    began = time.process_time()
    examine(subject, raw(subject, max(RUNGS)), seed=0)
    took["contracts"] = time.process_time() - began
    for samples in RUNGS:
        recipe = default_recipe(samples)
        rung = Rung(
            subject=subject,
            samples=samples,
            recipe=fault.recipe(recipe) if fault else recipe,
            criteria=criteria_for(samples),
            seeds=(0,),
        )
        began = time.process_time()
        outcome = rung.climb()
        took["rungs"][str(samples)] = time.process_time() - began
        if outcome.status == "broken":
            began = time.process_time()
            diagnosis = diagnose(rung, outcome)
            took |= {
                "broke_at": samples,
                "explaining": time.process_time() - began,
                "steps": [a.steps for a in outcome.attempts],
            }
            took["trials"] = [
                (t.finding, t.remedy, t.held, t.steps, round(t.seconds, 2), t.why)
                for t in diagnosis.trials
            ]
            took["found"] = [(f.name, f.module, f.status) for f in diagnosis.findings if f.fails()]
            took["expected"] = fault.finding if fault else None
            break
    return took


def ratio(row: dict[str, Any], *, contracts: bool, asked: bool = False) -> float | None:
    """Seconds of the broken rungs and of their explanation, as a multiple of the sound climb of the
    same rungs, or of all that were asked for; None where none broke.
    """
    fault = row["fault"]
    if fault.get("broke_at") is None:
        return None
    climbed = [
        sum(one["rungs"][n] for n in (one["rungs"] if asked else fault["rungs"]))
        + contracts * one["contracts"]
        for one in row["sound"]
    ]
    return (sum(fault["rungs"].values()) + fault["explaining"] + contracts * fault["contracts"]) / (
        sum(climbed) / len(climbed)
    )


MEASURES = {
    "contracts and the rungs asked for": {"contracts": True, "asked": True},
    "contracts and the same rungs": {"contracts": True},
    "the same rungs alone": {"contracts": False},
}
"""What the seconds of a fault are compared with."""


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """For each network the median and the worst ratio by each measure, and what was confirmed."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        broken = [
            row
            for row in rows
            if row["network"] == network and row["fault"].get("broke_at") is not None
        ]
        if not broken:
            continue
        confirmed = sum(any(held for _, _, held, *_ in row["fault"]["trials"]) for row in broken)
        lines.append(f"{network}: {len(broken)} broken rungs, a remedy confirmed in {confirmed}")
        for title, measure in MEASURES.items():
            among = sorted((ratio(row, **measure) or 0.0, row["name"]) for row in broken)
            worst = ", ".join(f"{name} {value:.1f}" for value, name in among[:-6:-1])
            middle = median(value for value, _ in among)
            lines.append(f"  {title}: median {middle:.2f}, worst {worst}")
    return lines


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(row["network"], row["name"]): row for row in map(json.loads, lines)}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examination explaining", description=__doc__)
    parser.add_argument(
        "--networks", default="bigru", help=f"some of {', '.join(HOSTS)} (default %(default)s)"
    )
    parser.add_argument("--first", type=int, default=0, help="begin with this fault")
    parser.add_argument("--every", type=int, default=1, help="take every so many faults")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin no fault of a network after so long",
    )
    parser.add_argument("--results", type=Path, default=Path("logs/explaining.jsonl"))
    return parser.parse_args(arguments)
