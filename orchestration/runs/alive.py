"""Which runs are alive: each holds a lock for as long as its process lives."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock
from dagster import DagsterEventType, DagsterInstance

from ingest.store import files


def folder(instance: DagsterInstance) -> Path:
    """The files of the runs that are under way, by their ids."""
    return Path(instance.root_directory) / "running"


@contextlib.contextmanager
def holding(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """While the block runs, other processes see that the run is not dead."""
    path = folder(instance) / run_id
    path.parent.mkdir(exist_ok=True)
    with files.lock(path):
        yield
        # Left where the run raised: the next one looks whether it kept a place.
        path.unlink(missing_ok=True)


def process_of(instance: DagsterInstance, run_id: str) -> int | None:
    """The process of a run that is under way; None for one that has not begun, has
    ended, or is of an earlier version."""
    if _is_free(folder(instance) / run_id):
        return None
    said = [
        event.engine_event_data.metadata["pid"].value
        for record in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
        if (event := record.dagster_event) and "pid" in event.engine_event_data.metadata
    ]
    return int(str(said[-1]))


def is_dead(instance: DagsterInstance, run_id: str) -> bool:
    """Whether the run had begun and its process is gone."""
    path = folder(instance) / run_id
    return path.exists() and _is_free(path)


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lock."""
    if not path.exists():
        return True
    try:
        with files.lock(path, wait_sec=0):
            return True
    except filelock.Timeout:
        return False
