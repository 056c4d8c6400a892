"""Where trials are kept, and which of them are still under way.

A worker holds a lock that ends with its process, however that ends, and leaves word of the time at
every trial. On its own machine a trial is dead as soon as that lock is free; on another one, once
its last word is `LOST_SECONDS` old. A dead trial is marked failed and what it chose put in the
queue again; what took `MOST_LOST` processes with it (a crash, too much memory) is not tried once
more.
"""

from __future__ import annotations

import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pytest_overfit.errors import first_line
from pytest_overfit.search.errors import BadSearch
from pytest_overfit.search.scores import WORST

WORD_SECONDS = 30.0
"""Between two words of a trial under way."""
LOST_SECONDS = 600.0
"""After which a trial of another machine is taken for dead: its clock may be minutes off."""
UNSIGNED_SECONDS = 60.0
"""After which one is taken for dead that nobody signed: its process ended as it began."""
MOST_LOST = 5
FIRST = b'{"op_code":'
"""How every line of a journal begins."""
AGAIN_SECONDS = 0.5
"""Before a database is tried once more: another process may have been making its tables."""
WORKER, SEEN, LOST = "worker", "seen", "lost"


def open_storage(where: str) -> BaseStorage:
    """A database by its URL, or a journal file, which is made, and mended where a kill cut it off.

    Raises BadSearch where it cannot be opened, or is something else.
    """
    if "://" in where:
        return _database(where)
    path = Path(where).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock ends with its process: Optuna's own leave a file that others wait for.
        lock: Any = FileLock(f"{path}.lock")
        with lock:
            cut_half_line(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise BadSearch(f"search storage {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadSearch(f"search storage {path} is no journal of a search: {error}") from error


def _database(url: str) -> RDBStorage:
    """A database, whose tables several processes may be making at once."""
    for once_more in (True, True, False):
        try:
            return RDBStorage(url)
        except DBAPIError as error:
            if not once_more:
                raise BadSearch(f"search storage {shown(url)}: {first_line(error)}") from error
            time.sleep(AGAIN_SECONDS)
        except (ImportError, ValueError, StorageInternalError, SQLAlchemyError) as error:
            raise BadSearch(f"search storage {shown(url)}: {first_line(error)}") from error
    raise AssertionError("the last try returns or raises")


def shown(where: str) -> str:
    """A storage as it may be printed: a URL without its password."""
    try:
        return make_url(where).render_as_string(hide_password=True) if "://" in where else where
    except SQLAlchemyError:
        return f"{where.partition('://')[0]}://..."


def cut_half_line(path: Path) -> None:
    """Cut off what a killed process left without an end: the next line would be written onto it.

    Raises ValueError where the file does not begin as a journal does, and leaves it alone.
    """
    if not path.is_file():
        return
    with path.open("rb+") as file:
        begins = file.read(len(FIRST))
        if begins != FIRST[: len(begins)]:
            raise ValueError("it begins otherwise")
        whole = begins + file.read()
        if whole and not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)


class Worker:
    """One process of a search."""

    def __init__(self) -> None:
        self.name = f"{uuid.uuid4().hex}"
        self.host = socket.gethostname()
        self._lock = FileLock(lock_of(self.name))
        self._told = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While this is open, its trials count as alive."""
        with self._lock:
            yield
        lock_of(self.name).unlink(missing_ok=True)

    def sign(self, trial: Trial) -> None:
        """Say whose a trial is."""
        trial.set_user_attr(WORKER, [self.host, self.name])
        self._told = 0.0
        self.word(trial)

    def word(self, trial: Trial) -> None:
        """Say that a trial is alive, if it is time to."""
        if time.monotonic() - self._told > WORD_SECONDS or not self._told:
            self._told = time.monotonic()
            trial.set_user_attr(SEEN, time.time())


def lock_of(name: str) -> Path:
    """The file that a worker of this machine holds locked."""
    return Path(tempfile.gettempdir()) / f"pytest-overfit-search-{name}.lock"


def is_dead(trial: FrozenTrial, now: float) -> bool:
    """Whether a running trial's process has ended. now: seconds since the epoch."""
    if WORKER not in trial.user_attrs:
        began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return now - began > UNSIGNED_SECONDS
    host, name = trial.user_attrs[WORKER]
    if host == socket.gethostname() and (path := lock_of(name)).exists():
        return not _held(path)
    return now - float(trial.user_attrs.get(SEEN, 0.0)) > LOST_SECONDS


def _held(path: Path) -> bool:
    """Whether some process holds a lock."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


OnLost = Callable[[FrozenTrial], dict[str, Any]]
"""The user attributes of a trial that is not tried once more."""


def bury(study: optuna.Study, storage: BaseStorage, on_lost: OnLost) -> None:
    """Give up every dead trial."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_dead(trial, time.time()):
            give_up(study, storage, trial.number, on_lost)


def give_up(study: optuna.Study, storage: BaseStorage, number: int, on_lost: OnLost | None) -> None:
    """Mark a trial failed, and put what it had chosen in the queue, unless somebody else did.

    on_lost: None where its process is well, and was stopped by hand.
    Not by `study.tell`: samplers have no business with a trial of another process.
    """
    of_study = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(of_study, number)
    try:
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:  # another process was first
        return
    trial = storage.get_trial(trial_id)
    if not trial.params:
        return
    lost = trial.user_attrs.get(LOST, 0) + (on_lost is not None)
    anew = on_lost is None or lost < MOST_LOST
    attributes = {LOST: lost} if anew or on_lost is None else {LOST: lost, **on_lost(trial)}
    # A sampler's own marks go along: a grid tells by them what it has not visited.
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING if anew else TrialState.COMPLETE,
            value=None if anew else WORST,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=trial.system_attrs,
            user_attrs=attributes,
        )
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's lines about each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
