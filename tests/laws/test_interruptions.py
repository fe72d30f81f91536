"""Killed at any instant, or run twice at once: the next run reaches the same state.

The victims are real processes, forked from a server that has imported what they need:
the kills fall into the work, not into imports. `KILLS=200 pytest -m slow` kills that
often at each place.
"""

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest

from ingest.contracts.events import LARGEST_LINE_BYTES
from ingest.landing import event_files
from ingest.store.database import open_for_writing
from orchestration.snapshot import snapshot
from tests.support.builders import (
    RECEIVED_AT,
    Line,
    Warehouse,
    as_line,
    assert_same_state,
    ping,
    quiz,
    warehouse_again,
    write_lines,
)
from tests.support.kills import KILLS, Processes, instants, kill_again_until
from tests.support.logs import dense_log
from tests.support.snapshot import is_as_the_warehouse

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def processes(dbt: None) -> Processes:
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [
            *(
                "pandas",
                "ingest.landing.event_files",
                "orchestration.derive.dbt_runner",
                "dbt.cli.main",
            ),
            *("dbt.adapters.duckdb", "dbt.task.build", "dbt.parser.manifest"),
        ]
    )
    return Processes(context)


# --------------------------------------------------------------------------------------
# Land
# --------------------------------------------------------------------------------------

# Each file is several chunks.
CHUNK_BYTES = LARGEST_LINE_BYTES + 4096


def mixed_event_files(folder: Path) -> list[Path]:
    """Three files of events, duplicates, conflicts and broken lines."""
    return [
        write_lines(
            folder / f"{file}.ndjson",
            (
                line
                for index in range(40)
                for line in (
                    as_line(ping(f"e{file}-{index}")).ljust(80_000),
                    quiz(f"q{index}", score=file),
                    b'{"event_id": ',
                )
            ),
        )
        for file in range(3)
    ]


def land(files: list[Path], warehouse_path: Path) -> None:
    event_files.land(
        files, warehouse_path, received_at=RECEIVED_AT, chunk_bytes=CHUNK_BYTES
    )


def landed(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of raw; how long a load took may differ."""
    return {
        table: warehouse.rows(f"select {columns} from raw.{table} order by all")
        for table, columns in {
            "lms_event": "*",
            "dead_letter": "*",
            "load": "* exclude (seconds)",
        }.items()
    }


@pytest.mark.parametrize("kills", KILLS)
def test_a_land_killed_at_any_instant_is_made_whole_by_landing_again(
    tmp_path: Path, processes: Processes, kills: int
) -> None:
    files = mixed_event_files(tmp_path)
    unbroken = warehouse_in(tmp_path / "unbroken")
    cpu_seconds = processes.cpu_seconds(land, files, unbroken.path)
    expected = landed(unbroken)

    def kill(attempt: int) -> bool:
        warehouse = warehouse_in(tmp_path / str(attempt))
        instant = instants.uniform(0, cpu_seconds)
        was_at_work = processes.killed(instant, land, files, warehouse.path)
        land(files, warehouse.path)
        assert landed(warehouse) == expected
        return was_at_work

    kill_again_until(kills, kill)


def make_warehouse(warehouse_path: Path) -> None:
    with open_for_writing(warehouse_path, make=True):
        pass


def make_warehouse_until(largest_file_bytes: int, warehouse_path: Path) -> None:
    """The kernel ends the process where it would write past so many bytes of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes,) * 2)
    make_warehouse(warehouse_path)


@pytest.mark.parametrize("written_bytes", [0, 4096, 8192, 12288, 100_000])
def test_a_warehouse_killed_while_it_is_made_is_made_by_the_next(
    tmp_path: Path, processes: Processes, written_bytes: int
) -> None:
    warehouse = warehouse_in(tmp_path / "it")
    process = processes.start(make_warehouse_until, written_bytes, warehouse.path)
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    make_warehouse(warehouse.path)
    assert [file.name for file in warehouse.path.parent.iterdir()] == [
        warehouse.path.name
    ]


def kill_this_process(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def land_and_die_after_a_chunk(file: Path, warehouse_path: Path) -> None:
    event_files.land(
        [file], warehouse_path, chunk_bytes=CHUNK_BYTES, on_lines=kill_this_process
    )


def land_and_die_when_all_is_counted(file: Path, warehouse_path: Path) -> None:
    with mock.patch("ingest.landing.loads.record_load", kill_this_process):
        event_files.land([file], warehouse_path, chunk_bytes=CHUNK_BYTES)


@pytest.mark.parametrize(
    "land_and_die", [land_and_die_after_a_chunk, land_and_die_when_all_is_counted]
)
def test_a_land_killed_in_the_middle_of_a_file_leaves_nothing_of_it(
    tmp_path: Path, processes: Processes, land_and_die: Callable[[Path, Path], None]
) -> None:
    [file, *_] = mixed_event_files(tmp_path)
    warehouse = warehouse_in(tmp_path / "killed")
    process = processes.start(land_and_die, file, warehouse.path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert landed(warehouse) == {"lms_event": [], "dead_letter": [], "load": []}


def warehouse_in(folder: Path) -> Warehouse:
    folder.mkdir()
    return Warehouse(folder)


# --------------------------------------------------------------------------------------
# Refresh
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interruptions")


@pytest.fixture(scope="module")
def halfway(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse: half a log derived, the other half and new catalogues landed."""
    log = dense_log()
    warehouse = warehouse_again(folder)
    (first_time, first), *later = log.snapshots
    warehouse.land_catalogue(*first, effective_from=first_time)
    warehouse.land(log.events[:60])
    warehouse.refresh()
    for effective_from, classes in later:
        warehouse.land_catalogue(*classes, effective_from=effective_from)
    warehouse.land(log.events[60:])
    return Path(shutil.copy(warehouse.path, tmp_path_factory.mktemp("halfway")))


def copy_of(warehouse: Path, folder: Path) -> Warehouse:
    copy = warehouse_again(folder)
    shutil.copy(warehouse, copy.path)
    return copy


def derived(warehouse: Warehouse) -> dict[str, Any]:
    """Every derived row, and how far each model has come."""
    query = "select model, load_id from bookkeeping.watermark order by model"
    return {**warehouse.state(), "places": pd.DataFrame(warehouse.records(query))}


@dataclass(frozen=True)
class Unbroken:
    """What an unbroken refresh makes of `halfway`, and what it takes."""

    derived: dict[str, Any]
    cpu_seconds: float


@pytest.fixture(scope="module")
def unbroken(folder: Path, halfway: Path, processes: Processes) -> Unbroken:
    copy = copy_of(halfway, folder)
    cpu_seconds = processes.cpu_seconds(copy.refresh)
    return Unbroken(derived(copy), cpu_seconds)


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("run", [Warehouse.refresh, Warehouse.rebuild])
def test_a_refresh_after_a_killed_one_reaches_what_an_unbroken_one_does(
    folder: Path,
    processes: Processes,
    halfway: Path,
    unbroken: Unbroken,
    run: Callable[[Warehouse], None],
    kills: int,
) -> None:

    def kill(_attempt: int) -> bool:
        copy = copy_of(halfway, folder)
        # It takes the first third to read the manifest.
        instant = instants.uniform(unbroken.cpu_seconds / 3, unbroken.cpu_seconds)
        was_at_work = processes.killed(instant, run, copy)
        copy.refresh()
        assert_same_state(derived(copy), unbroken.derived)
        return was_at_work

    kill_again_until(kills, kill)


@pytest.mark.parametrize("kills", KILLS)
def test_a_snapshot_after_a_killed_one_has_all_that_the_warehouse_has(
    warehouse: Warehouse, tmp_path: Path, processes: Processes, kills: int
) -> None:
    log = dense_log()
    warehouse.land(log.events[:60])
    warehouse.refresh()
    snapshot.publish(warehouse.path)
    warehouse.land(log.events[60:])
    warehouse.refresh()
    place, kept = warehouse.folder / "published", tmp_path.with_name("kept")
    shutil.copytree(place, kept, symlinks=True)
    cpu_seconds = processes.cpu_seconds(snapshot.publish, warehouse.path)
    assert is_as_the_warehouse(warehouse) == 1

    def kill(_attempt: int) -> bool:
        shutil.rmtree(place)
        shutil.copytree(kept, place, symlinks=True)
        instant = instants.uniform(0, cpu_seconds)
        was_at_work = processes.killed(instant, snapshot.publish, warehouse.path)
        snapshot.publish(warehouse.path)
        assert is_as_the_warehouse(warehouse) == 1
        assert not list(place.rglob("*unfinished*"))
        return was_at_work

    kill_again_until(kills, kill)


# --------------------------------------------------------------------------------------
# Two at once
# --------------------------------------------------------------------------------------


def test_two_processes_that_land_the_same_events_land_each_once(
    warehouse: Warehouse, processes: Processes
) -> None:
    events: list[Line] = [ping(f"e{index}") for index in range(500)]
    files = [
        write_lines(warehouse.folder / "a.ndjson", events),
        write_lines(warehouse.folder / "b.ndjson", [*reversed(events), b"{"]),
    ]
    # Both find the warehouse held, and go for it as soon as it is free.
    with open_for_writing(warehouse.path, make=True):
        both = [processes.start(land, [file], warehouse.path) for file in files]
        time.sleep(0.3)
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert warehouse.rows(
        "select count(*), count(distinct event_id) from raw.lms_event"
    ) == [(500, 500)]
    assert warehouse.rows(
        """
        select max(load_id), sum(accepted), sum(duplicate), sum(conflict), sum(rejected)
        from raw.load
        """
    ) == [(2, 500, 500, 0, 1)]


def test_events_landed_during_a_refresh_are_in_the_next(
    tmp_path: Path, folder: Path, processes: Processes, halfway: Path
) -> None:
    more = [ping("late", user="u9", position=95), quiz("later", user="u9")]
    file = write_lines(tmp_path / "late.ndjson", more)
    copy = copy_of(halfway, folder)
    both = [
        processes.start(copy.refresh),
        processes.start(land, [file], copy.path),
    ]
    for process in both:
        process.join()
        assert process.exitcode == 0
    copy.refresh()
    at_once = derived(copy)
    copy = copy_of(halfway, folder)
    land([file], copy.path)
    copy.refresh()
    assert_same_state(at_once, derived(copy))
