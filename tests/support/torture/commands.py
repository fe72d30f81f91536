"""The commands that are tortured: what each starts from, and what it must come to.

They run as a user runs them, on a disk that fails on purpose (`tests.support.disk`),
each in a process of its own, forked from one that has imported what they need.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from ingest.landing import catalogue
from ingest.store import tombstones
from tests.support.builders import RECEIVED_AT, Warehouse, ping, write_lines
from tests.support.disk import Disk, mounted
from tests.support.earlier_loader import PING_V2, before
from tests.support.kills import Processes
from tests.support.logs import USERS, dense_log

# What says when, where or how often, and not what: another try may have others.
VOLATILE = (
    *("received_at", "first_seen", "seconds", "erased_at", "file", "file_mtime_ns"),
    *("attempts", "consumed_at", "enqueued_at", "moved_at", "retry_load_id"),
)


@dataclass(frozen=True)
class Command:
    """`words` are what is typed, with `{folder}` for the disk; `start` the state that
    it starts from. Where another try may be a load of its own, `without` are columns
    that say in which load a row came."""

    name: str
    start: str
    words: tuple[str, ...]
    without: tuple[str, ...] = ()


COMMANDS = [
    Command("first land", "nothing", ("land", "{folder}/landing/events")),
    Command("land", "half", ("land", "{folder}/landing/events")),
    Command("refresh", "landed", ("refresh",)),
    Command("rebuild", "landed", ("rebuild",)),
    Command("snapshot", "derived", ("refresh",)),
    Command("publish", "refreshed", ("publish",)),
    Command(
        "retry", "refreshed", ("dead-letters", "retry", "--all"), without=("load_id",)
    ),
    Command("replay", "damaged", ("replay", "--apply")),
    Command(
        "erase",
        "refreshed",
        ("erase", "--user", "u1", "--user", "u2", "--reason", "asked for"),
    ),
]
NAMED = {command.name: command for command in COMMANDS}


@dataclass(frozen=True)
class Run:
    """How one ended; `errors` is what it said on standard error."""

    code: int | None
    errors: str

    @property
    def says_damage(self) -> bool:
        """It names what restores a warehouse that is damaged."""
        return "damaged (" in self.errors and "warehouse restore" in self.errors

    @property
    def is_clear(self) -> bool:
        """It is done, or says in a line why not."""
        if self.code == 0:
            return True
        return (
            self.code == 1
            and re.search(r"^(error|failed): .+", self.errors, re.MULTILINE) is not None
            and "Traceback" not in self.errors
        )


def run_and_tell(words: list[str], environment: dict[str, str], output: Path) -> None:
    """In a process of its own: the command `warehouse`, its output into files."""
    for descriptor, name in ((1, "out"), (2, "err")):
        opened = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
    os.environ.update(environment)
    from orchestration.cli import main

    sys.argv = ["warehouse", *words]
    main()


def environment(folder: Path, plain: Path) -> dict[str, str]:
    """That of commands on the warehouse in `folder`; what dbt and Dagster keep for
    themselves goes into `plain`."""
    return {
        "LMS_WAREHOUSE": str(folder / "warehouse.duckdb"),
        "LMS_LANDING": str(folder / "landing"),
        "DBT_TARGET_PATH": str(plain / "dbt_target"),
        "DAGSTER_HOME": str(plain / "dagster"),
        # Without the data tests: half of the time, and they write nothing.
        "DBT_INDIRECT_SELECTION": "empty",
        "DBT_WRITE_JSON": "false",
        "NO_COLOR": "1",
    }


class Place:
    """A disk with a warehouse on it, and the states that commands start from."""

    def __init__(self, disk: Disk, plain: Path, processes: Processes) -> None:
        self.disk = disk
        self.path = disk.folder / "warehouse.duckdb"
        self._plain = plain
        self._processes = processes
        self._environment = environment(disk.folder, plain)

    def run(self, command: Command, *, wait_sec: float = 300) -> Run:
        words = [word.format(folder=self.disk.folder) for word in command.words]
        output = self._plain / "output"
        output.mkdir(exist_ok=True)
        process = self._processes.start(run_and_tell, words, self._environment, output)
        process.join(wait_sec)
        if process.is_alive():
            process.kill()
            process.join()
            return Run(None, f"no end after {wait_sec:g} s")
        return Run(process.exitcode, (output / "err").read_text(errors="replace"))

    def run_alone(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls it in a process of its own; one that does not end is killed."""
        process = self._processes.start(function, *arguments)
        process.join(60)
        if process.is_alive():
            process.kill()
            process.join()

    def folder_for(self, name: str) -> Path:
        """A new folder of this name, beside the disk."""
        folder = self._plain / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def start(self, name: str) -> Path:
        """The folder of a state; made when it is asked for first."""
        folder = self._plain / "states" / name
        if not folder.exists():
            getattr(self, f"_make_{name}")()
            folder.parent.mkdir(exist_ok=True)
            self.disk.save(folder)
        return folder

    def must(self, *words: str) -> None:
        run = self.run(Command("", "", words))
        assert run.code == 0, run

    def _make_nothing(self) -> None:
        events = self._plain / "empty" / "landing" / "events"
        events.mkdir(parents=True)
        lines = dense_log().events
        write_lines(
            events / "0.ndjson",
            [ping(f"retried{n}", user="u3", position=95) for n in range(5)],
        )
        write_lines(
            events / "1.ndjson",
            [
                *lines[:60],
                b"{",
                lines[0],
                {**lines[1], "user_id": "another"},
            ],
        )
        write_lines(events / "2.ndjson", [b"[]", *lines[40:], *lines[50:60]])
        self.disk.load(self._plain / "empty")

    def _warehouse(self, start: str) -> Warehouse:
        self.disk.load(self.start(start))
        return Warehouse(self.disk.folder)

    def _make_half(self) -> None:
        warehouse = self._warehouse("nothing")
        events = self.disk.folder / "landing" / "events"
        self._land_catalogues(0, 1)
        with before(PING_V2):
            warehouse.land_files(events / "0.ndjson")
        warehouse.land_files(events / "1.ndjson")
        self.must("refresh")
        self.must("publish")

    def _make_landed(self) -> None:
        warehouse = self._warehouse("half")
        self._land_catalogues(1, None)
        warehouse.land_files(self.disk.folder / "landing" / "events" / "2.ndjson")

    def _land_catalogues(self, first: int, end: int | None) -> None:
        folder = self.disk.folder / "landing" / "catalogue"
        folder.mkdir(exist_ok=True)
        for effective_from, classes in dense_log().snapshots[first:end]:
            file = folder / f"{effective_from[:13]}.csv"
            pd.DataFrame(classes).to_csv(file, index=False)
            catalogue.land_catalogue(
                file,
                self.path,
                effective_from=catalogue.parse_moment(effective_from),
                received_at=RECEIVED_AT,
            )

    def _make_derived(self) -> None:
        """Published is what was before."""
        self._make_refreshed()
        whole = self._plain / "whole"
        self.disk.save(whole)
        shutil.rmtree(whole / "published")
        shutil.copytree(
            self.start("half") / "published", whole / "published", symlinks=True
        )
        self.disk.load(whole)
        shutil.rmtree(whole)

    def _make_refreshed(self) -> None:
        self._warehouse("landed")
        self.must("refresh")

    def _make_damaged(self) -> None:
        self._warehouse("refreshed").execute(
            """
            delete from projections.prj_class_signal where user_id = 'u1';
            update projections.prj_video_progress set max_position_sec = 7
            """
        )


@contextlib.contextmanager
def place(*, strict: bool = False) -> Iterator[Place]:
    """A disk of its own, and what it takes to torture commands on it."""
    with tempfile.TemporaryDirectory(prefix="lms-torture-") as name:
        folder = Path(name)
        (folder / "disk").mkdir()
        with mounted(folder / "disk", strict=strict) as disk:
            yield Place(disk, folder, Processes(imported()))


def imported() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("pandas", "orchestration.cli", "orchestration.derive.dbt_runner"),
            *("orchestration.shadow.replay", "orchestration.erasure"),
            *("dbt.cli.main", "dbt.adapters.duckdb", "dbt.task.build"),
            *("dbt.parser.manifest", "tests.support.torture.commands"),
        ]
    )
    return context


# --- what a command comes to ----------------------------------------------------------

Rows = Counter[str]
State = dict[str, Rows]


def state(folder: Path, command: Command) -> State:
    """Every row of every table, of the snapshot and of the outbox's files."""
    left_out = (*VOLATILE, *command.without)
    path = folder / "warehouse.duckdb"
    if not path.exists():
        return {}
    found = {}
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as connection:
        for schema, table in connection.execute(
            "select schema_name, table_name from duckdb_tables() "
            "where database_name = current_database() "
            # The project's own words, and what a run of a rule was.
            "and schema_name not in ('bookkeeping', 'previous') order by all"
        ).fetchall():
            if command.without and (schema, table) in _OF_LOADS:
                continue
            if (schema, table) == ("raw", "tombstone"):
                # Each key has hashes of its own: whose they are is told by the key.
                buried = tombstones.read(connection)
                erased = buried.erased(USERS) if buried else []
                found["erased"] = Counter(erased)
                continue
            found[f"{schema}.{table}"] = _rows(
                connection, f'"{schema}"."{table}"', left_out
            )
    for name, rows in snapshot_state(folder).items():
        found[f"published {name}"] = rows
    found["outbox files"] = Counter(
        json.loads(line)["id"]
        for file in sorted(folder.glob("outbox/*/*.ndjson"))
        for line in file.read_bytes().splitlines()
    )
    return {name: rows for name, rows in found.items() if rows}


_OF_LOADS = {("raw", "load"), ("raw", "retried_letter")}
_PUBLISHED = ("progress.v_user_progress", "signals.lms_signal", "raw.lms_event")


def snapshot_state(folder: Path) -> State:
    """What readers have. Raises `duckdb.Error` where it cannot be read."""
    path = folder / "published" / "warehouse.duckdb"
    if not path.exists():
        return {}
    with contextlib.closing(
        duckdb.connect(str(path.resolve()), read_only=True)
    ) as connection:
        return {
            name: _rows(connection, name, (*VOLATILE, "load_id")) for name in _PUBLISHED
        }


def _rows(
    connection: duckdb.DuckDBPyConnection, table: str, left_out: tuple[str, ...]
) -> Rows:
    result = connection.execute(
        f"select columns(lambda c: c not in {left_out}) from {table}"
    )
    return Counter(map(repr, result.fetchall()))


def difference(actual: State, expected: State) -> str | None:
    """Where they differ, in a line; None if they are equal."""
    for name in sorted({*actual, *expected}):
        found, due = actual.get(name, Counter()), expected.get(name, Counter())
        if found != due:
            more, fewer = found - due, due - found
            example = next(iter(more or fewer))
            return (
                f"{name}: {more.total()} rows too many, {fewer.total()} missing, "
                f"such as {example[:300]}"
            )
    return None


def snapshot_of(found: State) -> Any:
    return {
        name.removeprefix("published "): rows
        for name, rows in found.items()
        if name.startswith("published ")
    }
