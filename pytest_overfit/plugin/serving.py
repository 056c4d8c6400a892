"""A side of a comparison as a session of pytest: it collects its own cases, and where another
session would run them, it climbs what it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pytest_overfit.against.cache import Cache, hash_of_file, hashes_of, settings_of
from pytest_overfit.against.course import Course
from pytest_overfit.against.kept import Account, KeptCourse, identity, structure_of
from pytest_overfit.against.sides import Answer, Request, imported_from, own_modules, serve
from pytest_overfit.climb.ladder import Rung
from pytest_overfit.host import lent
from pytest_overfit.plugin.hooks import case_of
from pytest_overfit.plugin.options import settings
from pytest_overfit.subject import Sample


class Serving:
    """The plugin of that session. order: what `Side` was started with."""

    def __init__(self, order: Request) -> None:
        self.order = order
        self.tree = Path(order["tree"])
        self.files = {Path(file) for file in order["files"]}
        self.rungs: dict[tuple[str, int], Rung] = {}
        self.contents: dict[tuple[str, int], tuple[str, str]] = {}
        self.at: tuple[str, int, int, int | None] | None = None
        self.course: Course | KeptCourse | None = None
        self.account = Account()
        self.settings = settings_of(self.tree)
        self.cache = Cache(Path(order["cache"])) if order["cache"] else None
        if self.cache:
            self.cache.remove_unused()
        self.failures: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.overfit_against = None  # an ini file may ask for it: this session is it

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Only the files whose cases are compared."""
        if collection_path.is_dir():
            return not any(file.is_relative_to(collection_path) for file in self.files) or None
        return collection_path not in self.files or None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failures.append(str(report.longrepr).strip().splitlines()[-1])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Serve until the other end is closed."""
        self.session = session
        with lent(settings(session.config).threads):
            serve(self.order["socket"], self.answer)
        return True

    def answer(self, request: Request) -> Answer:
        """Do one thing that was asked for."""
        if request["do"] == "open":
            return self.opened(request["key"], request["samples"])
        if request["do"] == "account":
            account, self.account = self.account, Account()
            return asdict(account)
        if request["do"] == "memory":
            assert self.course is not None
            return {"bytes": self.course.memory_bytes()}
        timed = request.get("course")  # none of those that are climbed
        what = request["key"], request["samples"], request["seed"]
        if self.at != (*what, timed):
            if self.course is not None:
                self.course.close()
            self.course = self._begun(*what, timed=timed is not None)
            self.at = *what, timed
        if timed is not None:
            assert isinstance(self.course, Course)
            return self.course.take(request["steps"])
        assert self.course is not None
        return self.course.advance(request["to"]).to_json()

    def _begun(self, key: str, samples: int, seed: int, *, timed: bool) -> Course | KeptCourse:
        """A course; one that is to be timed, or that the user's own loop takes, whose code may be
        anywhere, has nothing to do with the cache.
        """
        rung, (content, structure) = self.rungs[key, samples], self.contents[key, samples]

        def make() -> Course:
            return Course(
                rung.subject,
                rung.subject.take(samples),
                rung.recipe,
                rung.criteria,
                seed=seed,
                device=rung.device,
                size=rung.size,
            )

        if timed:
            return make()
        if self.cache is None or rung.subject.loop is not None:
            self.account.courses += 1
            return make()
        return KeptCourse(
            self.cache,
            identity(
                rung,
                key=key,
                seed=seed,
                samples=content,
                network=structure,
                code=self.code(),
            ),
            make=make,
            code=self.code,
            of_file=lambda name: hash_of_file(self.tree / name),
            account=self.account,
        )

    def code(self) -> dict[str, str]:
        """The hash of every file of this side's that is imported by now, and of its settings."""
        imported = own_modules(but=self.order["at_start"]).values()
        return hashes_of(self.tree, [*imported, *self.settings])

    def opened(self, key: str, samples: int) -> Answer:
        """What is known of a rung before it is climbed. Raises LookupError where there is none."""
        cases = [
            case
            for item in self.session.items
            if (case := case_of(item)) and f"{item.nodeid.split('[')[0]}-{case.subject.name}" == key
        ]
        if not cases:
            raise LookupError(self.failures[0] if self.failures else "it has no such test")
        if self.order["foreign"] and (
            strays := imported_from(Path(self.order["foreign"]), but=self.order["at_start"])
        ):
            name, path = next(iter(strays.items()))
            raise ImportError(
                f"it imports {name} from {path}, which is your checkout and not its own"
            )
        rung = settings(self.session.config).rung(cases[0].subject, samples)
        taken = rung.subject.take(samples)
        network = rung.subject.fresh(
            feature_dim=taken[0].features.shape[1],
            seed=rung.seeds[0],
            size=rung.size,
            network=rung.recipe.network,
        )
        self.rungs[key, samples] = rung
        self.contents[key, samples] = content_of(taken), structure_of(network)
        return {
            "budget": rung.recipe.budget,
            "samples": self.contents[key, samples][0],
            "parameters": sum(value.numel() for value in network.parameters()),
            "files": [
                path.relative_to(self.tree).as_posix()
                for path in dict.fromkeys(imported_from(self.tree).values())
            ],
        }


def content_of(samples: Sequence[Sample]) -> str:
    """A hash of names, features and targets."""
    digest = hashlib.sha256()
    for sample in samples:
        features = sample.features.detach().cpu().contiguous()
        digest.update(
            json.dumps([sample.name, list(features.shape), sample.target.tolist()]).encode()
        )
        digest.update(features.numpy().tobytes())
    return digest.hexdigest()


def main(order: dict[str, Any]) -> None:
    """Run the session that `order` describes, until the other end is closed."""
    os.environ.update(order["environment"])
    sys.exit(pytest.main(order["arguments"], plugins=[Serving(order)]))
