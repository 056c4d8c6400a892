"""Whether the change that slows a network down is found among others: a repository with a small
network, one slow-down planted in it beside sound changes, and the search that a session makes.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_overfit.against.changes import Change, changes, copy_of, put_back
from pytest_overfit.against.course import Course
from pytest_overfit.against.guilty import Guilty, judge, search
from pytest_overfit.against.pairing import Pair, climb_both
from pytest_overfit.against.sides import SideFailed, in_one_line
from pytest_overfit.against.verdict import PairTest, PairVerdict, scale_of
from pytest_overfit.climb.criteria import criteria_for
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Subject
from tests.engine.networks import DIM, VOCABULARY, clips

TEAM = Path(__file__).with_name("team")
FILES = ("blocks.py", "network.py", "training.py")
SAMPLES = 1
Edit = tuple[str, str, str]
"""File, old text, new text."""

PLANTS: dict[str, Edit] = {
    "depthwise initialisation": ("blocks.py", "std=3**-0.5", "std=0.1 / width"),
    "lost skip": ("blocks.py", "return x + mixed", "return mixed"),
    "saturating activation": ("blocks.py", "hidden.relu()", "(5 * hidden).sigmoid()"),
    "narrower": ("network.py", "WIDTH = 32", "WIDTH = 6"),
    "second softmax": ("network.py", "self.head(x)", "self.head(x).softmax(-1)"),
    "faint logits": ("network.py", "self.head(x)", "0.1 * self.head(x)"),
    "rate of the head": ("training.py", "= {}", '= {"head": 0.02}'),
    "rate of the blocks": ("training.py", "= {}", '= {"blocks": 0.02, "project": 0.02}'),
}
SOUND: tuple[Edit, ...] = (
    (
        "blocks.py",
        '"""A convolution of each channel by itself."""',
        '"""Each channel by itself."""',
    ),
    ("blocks.py", "nn.Conv1d(width, width, 1)", "nn.Conv1d(width, width, kernel_size=1)"),
    ("network.py", "(1, 2, 4)", "(1, 2, 3)"),
    ("training.py", '"""How it is trained."""', '"""How the network is trained."""'),
)
MANY: tuple[Edit, ...] = (
    *SOUND,
    ("blocks.py", "def depthwise(", "def per_channel("),
    ("blocks.py", "= depthwise(", "= per_channel("),
    ("network.py", "nn.Linear(dim, WIDTH)", "nn.Linear(dim, WIDTH, bias=True)"),
    ("network.py", "between two projections", "between a projection and a head"),
)
"""Beside those a new name, which two changes make, neither of them alone."""


class Climber:
    """One side's course, in this process."""

    def __init__(self, tree: Path, seed: int) -> None:
        try:
            subject = subject_of(tree)
            taken, recipe = subject.take(SAMPLES), subject.recipes[SAMPLES]
            self.course = Course(subject, taken, recipe, criteria_for(SAMPLES), seed=seed)
        except Exception as error:  # a change that others need, put back alone
            raise SideFailed(in_one_line(error)) from error

    def advance(self, to: int) -> dict[str, Any]:
        """As `Course.advance`, in plain types."""
        return self.course.advance(to).to_json()


def subject_of(tree: Path) -> Subject:
    """The network of a tree, whose modules are imported anew."""
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    try:
        importlib.invalidate_caches()
        network, training = importlib.import_module("network"), importlib.import_module("training")
    finally:
        sys.path.remove(str(tree))
        for file in FILES:
            sys.modules.pop(file.removesuffix(".py"), None)
    return Subject(
        name="net",
        build=lambda vocab_size, feature_dim, seed: network.Net(DIM, VOCABULARY),
        samples=clips(SAMPLES),
        vocabulary=[f"token{i}" for i in range(VOCABULARY)],
        recipes={SAMPLES: Recipe(layer_lr=training.LAYER_LR, clip=training.CLIP)},
    )


@contextmanager
def repository() -> Iterator[Path]:
    """The team's files in one commit."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name).resolve()
        for file in FILES:
            shutil.copy2(TEAM / file, tree)
        own = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        for command in (["init", "-q"], ["add", "."], [*own, "commit", "-qm", "begin"]):
            subprocess.run(["git", "-C", name, *command], check=True)
        yield tree


def edit(tree: Path, edits: tuple[Edit, ...]) -> None:
    """Make the changes. Raises ValueError where there is nothing to change."""
    for file, old, new in edits:
        text = (tree / file).read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{file} has no {old!r}")
        (tree / file).write_text(text.replace(old, new), encoding="utf-8")


def compared(ours: Path, base: Path, test: PairTest, budget: int) -> tuple[PairVerdict, list[Pair]]:
    """The verdict on one tree against another."""
    pairs: list[Pair] = []
    while not (verdict := test.standing(pairs).verdict if pairs else None):
        seed = len(pairs)
        settled = test.settled(pairs)
        sides = Climber(ours, seed), Climber(base, seed)
        pairs.append(climb_both(*sides, seed=seed, budget=budget, settled=settled))
    return verdict, pairs


def blame(plant: Edit, beside: tuple[Edit, ...]) -> tuple[PairVerdict, tuple[Guilty, ...]]:
    """What a session says of a plant beside other changes, and which change it finds guilty."""
    test, budget = PairTest(scale=scale_of(SAMPLES)), Recipe().budget
    with repository() as tree, repository() as base:
        edit(tree, tuple(one for one in beside if one[:2] != plant[:2]))
        edit(tree, (plant,))
        verdict, pairs = compared(tree, base, test, budget)
        if verdict != "worse":
            return verdict, ()
        with copy_of(tree) as copy:

            def trial(change: Change) -> PairVerdict | None:
                with put_back(copy, change):
                    return judge(
                        pairs,
                        test,
                        budget,
                        ratio=test.standing(pairs).ratio,
                        ours=runner(copy),
                        base=runner(base),
                    )

            return verdict, search(changes(tree, "HEAD", FILES), trial)


def runner(tree: Path) -> Callable[[int], Climber]:
    return lambda seed: Climber(tree, seed)


def named(plant: Edit, verdict: PairVerdict, tried: Sequence[Guilty]) -> str:
    """What was named: the line, its file, another place ("falsely"), or nothing."""
    if verdict != "worse":
        return "not worse"
    found = next((one for one in reversed(tried) if one.confirmed), None)
    if found is None:
        return "nothing"
    lines = (TEAM / plant[0]).read_text(encoding="utf-8").splitlines()
    line = next(place for place, text in enumerate(lines, 1) if plant[1] in text)
    if found.file != plant[0] or not (found.whole or found.line == line):
        return "falsely"
    return "file" if found.whole else "line"


def figures(results: Path) -> Iterator[str]:
    """A line for each plant, noted in `results` as it comes, and how many were named how."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    results.parent.mkdir(parents=True, exist_ok=True)
    for name, plant in PLANTS.items():
        for beside, words in ((SOUND, "four"), (MANY, "eight")):
            what = f"{name} beside {words} sound changes: "
            if any(line.startswith(what) for line in lines):
                continue
            verdict, tried = blame(plant, beside)
            lines.append(f"{what}{named(plant, verdict, tried)}; {len(tried)} tried")
            results.write_text("\n".join(lines) + "\n", encoding="utf-8")
    yield from lines
    counts = Counter(line.split(": ")[1].split(";")[0] for line in lines)
    yield f"of {counts.total()} planted among other changes: {dict(counts)}"
