"""Killed at any instant, or run twice at once: the next run reaches the same state.

The victims are real processes, forked from a server that has imported what they need:
the kills fall into the work, not into imports. `KILLS=200 pytest -m slow` kills that
often at each place.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

import pytest

from builders import (
    RECEIVED_AT,
    Line,
    Warehouse,
    as_line,
    assert_same_state,
    ping,
    quiz,
    write_lines,
)
from ingest import landing
from ingest.contracts import LARGEST_LINE_BYTES
from ingest.warehouse import open_for_writing
from test_laws import Log, dense_log

pytestmark = pytest.mark.xdist_group("interruptions")

KILLS = [
    3,
    pytest.param(int(os.environ.get("KILLS", "50")), marks=pytest.mark.slow, id="many"),
]


@pytest.fixture(scope="module")
def processes(_own_dbt_target: None) -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("pandas", "ingest.landing", "orchestration.transform", "dbt.cli.main"),
            *("dbt.adapters.duckdb", "dbt.task.build", "dbt.parser.manifest"),
        ]
    )
    seconds_of(context.Process(target=time.time))  # The server has started.
    return context


def seconds_of(process: BaseProcess) -> float:
    """Runs a process to its end; how long that takes."""
    started = time.perf_counter()
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - started


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """Whether the process was still at work when it was killed."""
    process.start()
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


# --------------------------------------------------------------------------------------
# Land
# --------------------------------------------------------------------------------------

# Each file is several chunks.
CHUNK_BYTES = LARGEST_LINE_BYTES + 4096


def event_files(folder: Path) -> list[Path]:
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
    landing.land(
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
    tmp_path: Path, processes: ForkServerContext, kills: int
) -> None:
    files = event_files(tmp_path)
    unbroken = warehouse_in(tmp_path / "unbroken")
    seconds = seconds_of(processes.Process(target=land, args=(files, unbroken.path)))
    expected = landed(unbroken)
    was_at_work = []
    for kill in range(kills):
        warehouse = warehouse_in(tmp_path / str(kill))
        process = processes.Process(target=land, args=(files, warehouse.path))
        was_at_work.append(kill_after(process, Random().uniform(0, seconds)))
        land(files, warehouse.path)
        assert landed(warehouse) == expected
    assert any(was_at_work)


def land_until_killed(file: Path, warehouse_path: Path) -> None:
    def kill_this_process(file: Path, count: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    landing.land(
        [file], warehouse_path, chunk_bytes=CHUNK_BYTES, on_lines=kill_this_process
    )


def test_a_land_killed_in_the_middle_of_a_file_leaves_nothing_of_it(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    [file, *_] = event_files(tmp_path)
    warehouse = warehouse_in(tmp_path / "killed")
    process = processes.Process(target=land_until_killed, args=(file, warehouse.path))
    process.start()
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
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Half a log derived, the other half and a new catalogue landed."""
    log: Log = dense_log()
    warehouse = Warehouse(tmp_path_factory.mktemp("halfway"))
    (first_time, first), *later = log.snapshots
    warehouse.land_catalogue(*first, effective_from=first_time)
    warehouse.land(log.events[:60])
    warehouse.refresh()
    for effective_from, classes in later:
        warehouse.land_catalogue(*classes, effective_from=effective_from)
    warehouse.land(log.events[60:])
    return warehouse


def copy_of(warehouse: Warehouse, folder: Path) -> Warehouse:
    copy = warehouse_in(folder)
    shutil.copy(warehouse.path, copy.path)
    return copy


def places(warehouse: Warehouse) -> list[tuple[str, int]]:
    query = "select model, load_id from staging.consumed_load order by model"
    return warehouse.rows(query)


@dataclass(frozen=True)
class Unbroken:
    """What an unbroken refresh makes of `halfway`, and how long it takes."""

    warehouse: Warehouse
    seconds: float


@pytest.fixture(scope="module")
def unbroken(
    halfway: Warehouse,
    processes: ForkServerContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Unbroken:
    copy = copy_of(halfway, tmp_path_factory.mktemp("unbroken") / "warehouse")
    return Unbroken(copy, seconds_of(processes.Process(target=copy.refresh)))


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("run", [Warehouse.refresh, Warehouse.rebuild])
def test_a_refresh_after_a_killed_one_reaches_what_an_unbroken_one_does(
    tmp_path: Path,
    processes: ForkServerContext,
    halfway: Warehouse,
    unbroken: Unbroken,
    run: Callable[[Warehouse], None],
    kills: int,
) -> None:
    expected, expected_places = unbroken.warehouse.state(), places(unbroken.warehouse)
    was_at_work = []
    for kill in range(kills):
        copy = copy_of(halfway, tmp_path / str(kill))
        process = processes.Process(target=run, args=(copy,))
        # It takes the first third to read the manifest.
        instant = Random().uniform(unbroken.seconds / 3, unbroken.seconds)
        was_at_work.append(kill_after(process, instant))
        copy.refresh()
        assert_same_state(copy.state(), expected)
        assert places(copy) == expected_places
    assert any(was_at_work)


# --------------------------------------------------------------------------------------
# Two at once
# --------------------------------------------------------------------------------------


def test_two_processes_that_land_the_same_events_land_each_once(
    warehouse: Warehouse, processes: ForkServerContext
) -> None:
    events: list[Line] = [ping(f"e{index}") for index in range(500)]
    files = [
        write_lines(warehouse.folder / "a.ndjson", events),
        write_lines(warehouse.folder / "b.ndjson", [*reversed(events), b"{"]),
    ]
    both = [
        processes.Process(target=land, args=([file], warehouse.path)) for file in files
    ]
    # Both find the warehouse held, and go for it as soon as it is free.
    with open_for_writing(warehouse.path):
        for process in both:
            process.start()
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
    tmp_path: Path,
    processes: ForkServerContext,
    halfway: Warehouse,
    unbroken: Unbroken,
) -> None:
    copy = copy_of(halfway, tmp_path / "copy")
    more = [ping("late", user="u9", position=95), quiz("later", user="u9")]
    file = write_lines(tmp_path / "late.ndjson", more)
    both = [
        processes.Process(target=copy.refresh),
        processes.Process(target=land, args=([file], copy.path)),
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    copy.refresh()
    other = copy_of(unbroken.warehouse, tmp_path / "other")
    land([file], other.path)
    other.refresh()
    assert_same_state(copy.state(), other.state())
