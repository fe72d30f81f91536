"""Several processes write to one warehouse at once, while others read its snapshots.

Two to eight processes land, refresh, rebuild, publish and erase at random, and a run of
Dagster lands and refreshes between them; two readers ask what is published. Each writer
ends within a bounded wait, done or told that the warehouse is held. What a reader has
open stays as it was and follows from its own events. What is there in the end is what
one process would have made.
"""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count as numbers
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import duckdb

from ingest.errors import WarehouseError
from ingest.store.database import open_for_reading
from serving import published
from tests.support import oracle, reference
from tests.support.builders import Json, Warehouse, as_line, write_lines
from tests.support.dagster_runs import PROJECT, launch, make_home
from tests.support.kills import Processes
from tests.support.logs import USERS, Log, a_snapshot, an_event
from tests.support.torture.commands import (
    environment,
    imported,
    run_and_tell,
)
from tests.support.torture.tally import Tally, rounds

EFFECTIVE = "2026-03-01T00:00:00Z"
EVENTS = 240
FILES = 12
ERASED = USERS[:4]

# What a writer may wait for the warehouse, and what all of its work may take.
LOCK_WAIT_SEC = 20
BOUND_SEC = 240

READ = {
    name: oracle.QUERIES[name]
    for name in ("lms_signal", "v_user_progress", "v_event_daily_stats")
}
_IDS = "select event_id from raw.lms_event order by all"
_REPLACED = "the snapshot was replaced meanwhile"
# Of another process, or of "other processes" where readers count, too.
_HELD = "held the warehouse for"


def writers(seed: int, count: int, *, at_most: int = 8, dagster: bool = True) -> Tally:
    """So many rounds of at most so many writers each."""
    tally = Tally()
    readings = 0
    processes = Processes(imported())
    with (
        tempfile.TemporaryDirectory(prefix="lms-torture-") as name,
        mock.patch.dict(os.environ, {"DBT_TARGET_PATH": f"{name}/plain/dbt_target"}),
    ):
        template = _Template(Path(name))
        for number, random in rounds(count, seed):
            what = f"round {number} (seed {seed})"
            print(f"  {what}", file=sys.stderr, flush=True)
            one = _Round(template, processes, random, tally, what)
            one.run(random.randint(2, at_most), dagster=dagster)
            read = one.compare()
            tally.check(read > 0, f"{what}: no reader had a snapshot")
            readings += read
    tally.note(f"{count} rounds, {readings} snapshots read")
    return tally


class _Template:
    """A warehouse that is derived and published, with half of the files landed."""

    def __init__(self, folder: Path) -> None:
        random = Random(1)
        self.log = Log(
            [(EFFECTIVE, a_snapshot(random))],
            [an_event(random, f"{number:04}") for number in range(EVENTS)],
        )
        self.folder = folder / "template"
        # All warehouses stand in one folder, so that dbt need not parse again.
        self.place = folder / "place"
        self.plain = folder / "plain"
        self.plain.mkdir()
        make_home(self.plain / "dagster")
        events = self.place / "landing" / "events"
        events.mkdir(parents=True)
        size = EVENTS // FILES
        for number in range(FILES):
            lines = [
                as_line(event)
                for event in self.log.events[number * size : (number + 1) * size]
            ]
            write_lines(events / f"{number:02}.ndjson", [*lines, b"{", *lines[:3]])
        warehouse = Warehouse(self.place)
        warehouse.land_catalogue(*self.log.snapshots[0][1], effective_from=EFFECTIVE)
        warehouse.land_files(*sorted(events.iterdir())[: FILES // 2])
        ran = subprocess.run(
            [str(Path(sys.executable).with_name("warehouse")), "refresh"],
            env={**os.environ, **environment(self.place, self.plain)},
            cwd=PROJECT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        shutil.copytree(self.place, self.folder, symlinks=True)

    def events_of(self, ids: set[str]) -> list[reference.Event]:
        return [
            event
            for event in oracle.accepted_events(self.log.events)
            if event.event_id in ids
        ]


@dataclass(frozen=True)
class Reading:
    """What one reader had of a snapshot: by its query, the rows as dicts."""

    ids: tuple[str, ...]
    answers: dict[str, list[Json]]

    def records(self, query: str) -> list[Json]:
        return self.answers[query]


class _Round:
    def __init__(
        self,
        template: _Template,
        processes: Processes,
        random: Random,
        tally: Tally,
        what: str,
    ) -> None:
        self._template = template
        self._processes = processes
        self._random = random
        self._tally = tally
        self._what = what
        self._folder = template.place
        self._asked_to_erase: set[str] = set()
        shutil.rmtree(self._folder)
        shutil.copytree(template.folder, self._folder, symlinks=True)
        self._output = template.plain / "output"
        shutil.rmtree(self._output, ignore_errors=True)
        self._output.mkdir()
        self._environment = {
            **environment(self._folder, template.plain),
            "LMS_LOCK_WAIT_SEC": str(LOCK_WAIT_SEC),
        }

    def run(self, how_many: int, *, dagster: bool) -> None:
        stop = self._output / "stop"
        readers = [
            self._processes.start(
                read_on, self._folder / "warehouse.duckdb", stop, self._output, number
            )
            for number in range(2)
        ]
        work = [self._commands() for _ in range(how_many)]
        started = numbers()
        launched = launch("refresh", self._environment) if dagster else None
        deadline = time.monotonic() + BOUND_SEC
        running: list[tuple[BaseProcess, list[str], Path, list[list[str]]]] = []
        for commands in work:
            running.append(self._start(commands, next(started)))
        while running:
            assert time.monotonic() < deadline + BOUND_SEC
            for one in list(running):
                process, words, output, rest = one
                process.join(0.05)
                if process.is_alive():
                    if time.monotonic() > deadline:
                        self._tally.check(False, f"{self._what}: {words}: no end")
                        process.kill()
                    continue
                running.remove(one)
                self._check_end(words, process.exitcode, output)
                if rest:
                    running.append(self._start(rest, next(started)))
        if launched is not None:
            said, _ = launched.communicate(timeout=BOUND_SEC)
            self._tally.tried += 1
            self._tally.refused += launched.returncode != 0
            self._tally.check(
                launched.returncode == 0 or _HELD in said,
                f"{self._what}: a run of Dagster ended with {launched.returncode}: "
                f"{said[-2000:]}",
            )
        stop.touch()
        for reader in readers:
            reader.join(60)
            self._tally.check(
                reader.exitcode == 0, f"{self._what}: a reader: {reader.exitcode}"
            )
            reader.kill()

    def _commands(self) -> list[list[str]]:
        """What one process after the other does, three commands of it."""
        random = self._random
        files = sorted((self._folder / "landing" / "events").iterdir())
        commands: list[list[str]] = []
        for _ in range(3):
            kind = random.choice(
                [*("land",) * 4, *("refresh",) * 3, "rebuild", "publish", "erase"]
            )
            if kind == "land":
                some = random.sample(files, random.randint(1, 4))
                commands.append(["land", *map(str, some)])
            elif kind == "erase":
                user = random.choice(ERASED)
                self._asked_to_erase.add(user)
                commands.append(["erase", "--user", user, "--reason", "asked for"])
            else:
                commands.append([kind])
        return commands

    def _start(
        self, commands: list[list[str]], number: int
    ) -> tuple[BaseProcess, list[str], Path, list[list[str]]]:
        words, *rest = commands
        output = self._output / f"{number:03}"
        output.mkdir()
        process = self._processes.start(run_and_tell, words, self._environment, output)
        return process, words, output, rest

    def _check_end(self, words: list[str], code: int | None, output: Path) -> None:
        self._tally.tried += 1
        self._tally.refused += code != 0
        said = (output / "err").read_text(errors="replace")
        self._tally.check(
            code == 0 or (code == 1 and _HELD in said),
            f"{self._what}: {' '.join(words)}: exit code {code}: {said}",
        )

    # --- what came of it

    def compare(self) -> int:
        """Each reading, and the end, with the reference; the number of readings."""
        snapshots = oracle.catalogue_snapshots(self._template.log.snapshots)
        readings = self._readings()
        for reading in readings:
            try:
                oracle.assert_equal(
                    reading,
                    self._template.events_of(set(reading.ids)),
                    snapshots,
                    only=READ,
                )
            except AssertionError as error:
                self._tally.check(
                    False,
                    f"{self._what}: a snapshot with {len(reading.ids)} events does not "
                    f"follow from them: {error}",
                )
        for user in sorted(self._asked_to_erase):
            # Those that were refused, or ended before the last landing, too.
            self._must("erase", "--user", user, "--reason", "asked for")
        warehouse = Warehouse(self._folder)
        warehouse.land_files(*sorted((self._folder / "landing" / "events").iterdir()))
        warehouse.refresh()
        remaining = [
            event
            for event in oracle.accepted_events(self._template.log.events)
            if event.user_id not in self._asked_to_erase
        ]
        with open_for_reading(warehouse.path) as connection:
            found = {event_id for (event_id,) in connection.execute(_IDS).fetchall()}
        due = {event.event_id for event in remaining}
        self._tally.check(
            found == due,
            f"{self._what}: {len(due - found)} events are missing in the end, and "
            f"{len(found - due)} too many",
        )
        try:
            oracle.assert_equal(warehouse, remaining, snapshots)
        except AssertionError as error:
            self._tally.check(False, f"{self._what}: in the end: {error}")
        return len(readings)

    def _must(self, *words: str) -> None:
        output = self._output / "last"
        output.mkdir(exist_ok=True)
        process = self._processes.start(
            run_and_tell, list(words), self._environment, output
        )
        process.join(BOUND_SEC)
        said = (output / "err").read_text(errors="replace")
        self._tally.check(
            process.exitcode == 0, f"{self._what}: {words}: {process.exitcode}: {said}"
        )

    def _readings(self) -> list[Reading]:
        """Those that differ."""
        found: list[Reading] = []
        for file in sorted(self._output.glob("reader-*")):
            with file.open("rb") as opened:
                while True:
                    try:
                        reading, problem = pickle.load(opened)
                    except EOFError:
                        break
                    self._tally.check(
                        problem is None, f"{self._what}: a reader: {problem}"
                    )
                    if reading is not None and reading not in found:
                        found.append(reading)
        return found


# --- in the process of a reader -------------------------------------------------------


def read_on(path: Path, stop: Path, output: Path, number: int) -> None:
    """Reads what is published until `stop` is there, each snapshot twice; writes the
    readings, and what should not have happened, to a file."""
    random = Random(number)
    with (output / f"reader-{number}").open("wb") as file:
        while not stop.exists():
            pickle.dump(_read_twice(path, random), file)


def _read_twice(path: Path, random: Random) -> tuple[Reading | None, str | None]:
    try:
        with published.opened(path) as connection:
            first = _read(connection)
            time.sleep(random.choice([0, 0.1, 2]))
            second = _read(connection)
    except WarehouseError as error:
        return None, None if _REPLACED in str(error) else str(error)
    except duckdb.Error as error:
        return None, f"an error of DuckDB's: {error}"
    return first, None if first == second else "the same snapshot reads otherwise"


def _read(connection: duckdb.DuckDBPyConnection) -> Reading:
    def rows(query: str) -> list[Any]:
        return connection.execute(query).fetchall()

    answers = {}
    for query in READ.values():
        found = rows(query)
        columns = [column[0] for column in connection.description or ()]
        answers[query] = [dict(zip(columns, row, strict=True)) for row in found]
    return Reading(tuple(event_id for (event_id,) in rows(_IDS)), answers)
