"""Asking the newest snapshot, in the scope of whoever asks.

`Follower` keeps the newest snapshot open and goes over to the next one by itself;
`Reader` is one asker's view of it: every query carries the asker's courses.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

import duckdb

from ingest.errors import WarehouseError
from serving import published
from serving.access import Scope

Row = dict[str, Any]

# Fewer learners than this in a cell say who they are.
FEWEST_LEARNERS = 5

# "Now", as the views of the warehouse have it (macros/time.sql).
NOW = (
    "coalesce(try_cast(getvariable('now') as timestamp), "
    "cast(timezone('UTC', current_timestamp) as timestamp))"
)

# The coverage below which a video is not even half watched, as the seed has it.
HALF = "(select value from analytics.threshold where name = 'half_watched')"


class NamesHidden(WarehouseError):
    """The question is about single learners, and the asker may not see who they are."""


@dataclass(frozen=True)
class Reader:
    """One asker's view of one snapshot. `load_id` and `published_at` say which; times
    are naive, in UTC. Days are cut in `time_zone`, as in the views."""

    connection: duckdb.DuckDBPyConnection
    scope: Scope
    load_id: int
    published_at: datetime
    time_zone: str = "UTC"

    def only(self, course_id: str | None) -> "Reader":
        """The same, narrowed to one course; None leaves it as it is."""
        if course_id is None:
            return self
        return replace(self, scope=self.scope.only(course_id))

    def courses(self, column: str) -> str:
        """The condition that a course id is in the scope."""
        if self.scope.courses is None:
            return "true"
        return f"list_contains(cast($scope_courses as varchar[]), {column})"

    def classes(self, column: str) -> str:
        """The condition that a class id is of a course in the scope."""
        if self.scope.courses is None:
            return "true"
        return f"list_contains(cast($scope_classes as varchar[]), {column})"

    def day(self, column: str) -> str:
        """The day that a time falls on."""
        # A zone costs more than all else of a query over many rows.
        if self.time_zone == "UTC":
            return f"cast({column} as date)"
        return f"cast(timezone('{self.time_zone}', timezone('UTC', {column})) as date)"

    def today(self) -> date:
        """The day that it is now, where days are cut."""
        [found] = self.row(f"select {self.day(NOW)} as today").values()
        return cast("date", found)

    def rows(self, sql: str, **values: Any) -> list[Row]:
        result = self._execute(sql, values)
        names = [name for name, *_ in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def row(self, sql: str, **values: Any) -> Row:
        [row] = self.rows(sql, **values)
        return row

    def needs_names(self) -> None:
        """Raises `NamesHidden` where the asker may not see who the learners are."""
        if not self.scope.sees_names:
            raise NamesHidden("learners are not named for you; ask for the right to it")

    def suppressed(self, rows: Sequence[Row], counts: Sequence[str]) -> list[Row]:
        """Rows in which a count is of fewer than 5 learners, and not 0, lose all their
        numbers where the asker may not see names: two numbers could give the third."""
        if self.scope.sees_names:
            return list(rows)
        return [
            without_numbers(row) if any(is_few(row[name]) for name in counts) else row
            for row in rows
        ]

    @functools.cached_property
    def _classes(self) -> list[str]:
        """Those of the courses in the scope, in today's catalogue."""
        found = self.connection.execute(
            "select class_id from catalogue.catalogue_class "
            "where list_contains(cast($1 as varchar[]), course_id)",
            [list(self.scope.courses or ())],
        ).fetchall()
        return [class_id for (class_id,) in found]

    def _execute(
        self, sql: str, values: Mapping[str, Any]
    ) -> duckdb.DuckDBPyConnection:
        given = {
            "scope_courses": list(self.scope.courses or ()),
            # Values, not a subquery: DuckDB looks at no row of another course then.
            "scope_classes": self._classes if "$scope_classes" in sql else (),
            **values,
        }
        used = {name: value for name, value in given.items() if f"${name}" in sql}
        return self.connection.execute(sql, used)


# Numbers that say where a cell is, not what is in it.
_PLACES = ("step", "position", "bin", "bin_start_sec", "tenth")


def is_few(count: int | None) -> bool:
    """Whether so many learners are too few to be counted for everyone."""
    return 0 < (count or 0) < FEWEST_LEARNERS


def without_numbers(row: Row) -> Row:
    return {
        name: None if isinstance(value, int | float) and name not in _PLACES else value
        for name, value in row.items()
    }


@dataclass(frozen=True)
class Snapshot:
    """A published snapshot, kept open for any number of threads, and what it says of
    itself. With `now` it is read as if it were that moment."""

    file: Path
    connection: duckdb.DuckDBPyConnection
    load_id: int
    published_at: datetime
    time_zone: str
    now: str | None

    @classmethod
    def opened(cls, file: Path, *, now: str | None = None) -> "Snapshot":
        """Raises `WarehouseError` if there is none."""
        connection = published.connect(file)
        return cls(file, connection, *_says(connection), now)

    def close(self) -> None:
        self.connection.close()

    @contextlib.contextmanager
    def reader(self, scope: Scope) -> Iterator[Reader]:
        with contextlib.closing(self.connection.cursor()) as connection:
            published.use(connection, self.file)
            if self.now:
                connection.execute(f"set variable now = '{self.now}'")
            says = self.load_id, self.published_at, self.time_zone
            yield Reader(connection, scope, *says)


class Follower:
    """The newest snapshot, kept open for any number of threads.

    A reader keeps the snapshot that it was opened on; the one before stays open until
    its last reader is gone.
    """

    def __init__(self, path: Path, *, now: str | None = None) -> None:
        self.path = path
        self._now = now
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None

    def newest(self) -> Path:
        """The file of the newest snapshot: another file, another snapshot."""
        return self.path.resolve()

    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises `WarehouseError` if there is none."""
        with self._lock:
            file = self.newest()
            if self._snapshot is None or file != self._snapshot.file:
                try:
                    self._snapshot = Snapshot.opened(file, now=self._now)
                except WarehouseError:
                    # An erasure removes it, when a newer one is in its place.
                    newer = self.newest()
                    if newer == file:
                        raise
                    self._snapshot = Snapshot.opened(newer, now=self._now)
            return self._snapshot

    @contextlib.contextmanager
    def reader(self, scope: Scope) -> Iterator[Reader]:
        """A reader of the newest snapshot. Raises `WarehouseError` if there is none."""
        snapshot = self.snapshot()
        with (
            published.replacement_is_said(snapshot.file),
            snapshot.reader(scope) as reader,
        ):
            yield reader


def _says(connection: duckdb.DuckDBPyConnection) -> tuple[int, datetime, str]:
    """Its load, when it was published, and the zone that its days are cut in.

    The zone is dbt's variable, which stands in the SQL of the views where it is not
    UTC; a copy without names has no views, and says it.
    """
    result = connection.execute("select * from published.snapshot")
    names = [name for name, *_ in result.description or ()]
    [row] = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    [[zone]] = connection.execute(
        r"""
        select max(regexp_extract(sql, 'timezone\(''([^'']+)'', *timezone', 1))
        from duckdb_views() where view_name = 'v_event_daily_stats'
        """
    ).fetchall()
    return row["load_id"], row["published_at"], row.get("time_zone") or zone or "UTC"
