"""What the tests are made of: events in a line each, and a warehouse of their own.

An event, a snapshot's row or a warehouse has defaults, so that a test states only what
it is about. Times are UTC; events of the defaults happen on 2026-03-10.
"""

import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import duckdb
import pandas as pd
from hypothesis import settings

from ingest.errors import WarehouseError
from ingest.landing import catalogue, event_files
from ingest.landing.catalogue import CatalogueLoad
from ingest.landing.event_files import Landing, Load
from ingest.landing.skills import SkillLoad, land_skills
from ingest.store.database import open_for_reading, open_for_writing

Json = dict[str, Any]
Line = Json | bytes
# Gives the folder of a name, which a function fills where it is not there yet.
MadeOnce = Callable[[str, Callable[[Path], None]], Path]

RECEIVED_AT = datetime(2026, 3, 20, 12)
CHUNK_BYTES = 16 * 2**20
NOW = "2026-03-12 00:00:00"

# What a load was, not what the events say: batching may change it.
ABOUT_LOADS = ("v_load_outcome", "v_dead_letter_summary")
ALL_MODELS = ("resource_type:model", "resource_type:seed")


def examples(few: int) -> int:
    """How many a property test tries: few with every run of the tests, and ten times as
    many, which are new ones, with `make test-slow`."""
    assert settings.default is not None
    return few if settings.default.derandomize else 10 * few


def event(
    event_id: str,
    event_type: str,
    payload: Json,
    *,
    version: int = 1,
    user: str = "u1",
    in_class: str = "c1",
    course: str | None = None,
    at: str = "2026-03-10T10:00:00Z",
    **more: Any,
) -> Json:
    named = {} if course is None else {"course_id": course}
    return {
        "event_id": event_id,
        "type": event_type,
        "schema_version": version,
        "user_id": user,
        "class_id": in_class,
        **named,
        "occurred_at": at,
        "payload": payload,
        **more,
    }


def ping(
    event_id: str = "e1",
    *,
    position: float = 10,
    duration: float = 100,
    payload: Mapping[str, Any] | None = None,
    **where: Any,
) -> Json:
    """A VIDEO_PING v2; `payload` is put over its fields, `where` over the envelope."""
    fields = {"video_id": "v1", "position_sec": position, "duration_sec": duration}
    return event(
        event_id, "VIDEO_PING", {**fields, **(payload or {})}, **{"version": 2, **where}
    )


def ping_v1(
    event_id: str = "e1",
    *,
    position: float = 10,
    duration: float = 100,
    payload: Mapping[str, Any] | None = None,
    **where: Any,
) -> Json:
    fields = {"video_id": "v1", "position": position, "duration": duration}
    return event(event_id, "VIDEO_PING", {**fields, **(payload or {})}, **where)


def quiz(
    event_id: str = "e1",
    *,
    score: float = 7,
    max_score: float = 10,
    passed: bool = True,
    payload: Mapping[str, Any] | None = None,
    **where: Any,
) -> Json:
    """A QUIZ_SUBMIT v1; `payload` is put over its fields, `where` over the envelope."""
    fields = {
        "quiz_id": "q1",
        "score": score,
        "max_score": max_score,
        "passed": passed,
    }
    return event(event_id, "QUIZ_SUBMIT", {**fields, **(payload or {})}, **where)


def without(json_object: Json, *names: str) -> Json:
    return {name: value for name, value in json_object.items() if name not in names}


def as_line(line: Line) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode()


def write_lines(path: Path, lines: Iterable[Line]) -> Path:
    path.write_bytes(b"".join(as_line(line) + b"\n" for line in lines))
    return path


@dataclass(frozen=True)
class Class:
    """One row of a catalogue snapshot."""

    class_id: str
    course_id: str = "k1"
    title: str = "A class"
    position: int = 1
    has_video: int = 1
    has_quiz: int = 0


@functools.cache
def _in_which_nothing_was_landed() -> bytes:
    """The file of a warehouse."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "warehouse.duckdb"
        with open_for_writing(path, make=True):
            pass
        return path.read_bytes()


class Warehouse:
    """A warehouse in a folder of its own, and what a user does with one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "warehouse.duckdb"
        self._files = 0
        self._made: tuple[Any, ...] | None = None

    @classmethod
    def made_in(cls, folder: Path) -> "Warehouse":
        """The one that a refresh made there, perhaps in another process."""
        warehouse = cls(folder)
        warehouse._made = warehouse._makes({"now": NOW})
        return warehouse

    def copied(self, folder: Path) -> "Warehouse":
        """A copy, as the only thing in a folder; a refresh need not make its views."""
        copy = warehouse_again(folder)
        shutil.copy(self.path, copy.path)
        copy._made = self._made  # noqa: SLF001
        return copy

    def _make(self) -> None:
        """As landing does: a third of what landing a few lines takes."""
        if not self.path.exists():
            self.path.write_bytes(_in_which_nothing_was_landed())

    def land(
        self,
        lines: Iterable[Line],
        *,
        received_at: datetime = RECEIVED_AT,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> Load:
        """Lands the lines as one new file; they are NDJSON, or the bytes of lines."""
        self._files += 1
        path = write_lines(self.folder / f"events-{self._files}.ndjson", lines)
        [load] = self.land_files(
            path, received_at=received_at, chunk_bytes=chunk_bytes
        ).loads
        return load

    def land_files(
        self,
        *files: Path,
        received_at: datetime = RECEIVED_AT,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> Landing:
        self._make()
        return event_files.land(
            files, self.path, received_at=received_at, chunk_bytes=chunk_bytes
        )

    def land_catalogue(
        self,
        *classes: Class,
        effective_from: str | None = None,
        received_at: datetime = RECEIVED_AT,
    ) -> CatalogueLoad:
        """Lands a snapshot; `effective_from` is a date or an RFC 3339 time."""
        self._make()
        self._files += 1
        path = self.folder / f"catalogue-{self._files}.csv"
        pd.DataFrame(classes).to_csv(path, index=False)
        return catalogue.land_catalogue(
            path,
            self.path,
            effective_from=(
                catalogue.parse_moment(effective_from) if effective_from else None
            ),
            received_at=received_at,
        )

    def land_skills(
        self, *pairs: tuple[str, str], received_at: datetime = RECEIVED_AT
    ) -> SkillLoad:
        """Lands a skill file of classes and skills."""
        self._files += 1
        path = self.folder / f"skills-{self._files}.csv"
        path.write_text("class_id,skill_id\n" + "".join(f"{c},{s}\n" for c, s in pairs))
        return land_skills(path, self.path, received_at=received_at)

    def refresh(self, *, select: Sequence[str] = ALL_MODELS, **variables: Any) -> None:
        derivation = self._derive(select=select, **variables)
        assert derivation.succeeded, derivation.as_json()["failures"]

    def rebuild(self, **variables: Any) -> None:
        derivation = self._derive(rebuild=True, **variables)
        assert derivation.succeeded, derivation.as_json()["failures"]

    def failing_refresh(self) -> list[str]:
        """Refreshes; the names of the models that failed."""
        return [node.name for node in self._derive().failures]

    def _derive(
        self,
        *,
        rebuild: bool = False,
        select: Sequence[str] = ALL_MODELS,
        **variables: Any,
    ) -> Any:
        from orchestration.derive.dbt_runner import derive

        self._make()
        given = {"now": NOW, **variables}
        is_all = select == ALL_MODELS
        if is_all and self._made and self._made == self._makes(given):
            # As a refresh of an unedited project does: a third of the time.
            select = ("config.materialized:incremental",)
        # Without the data tests and dbt's reports: 1.2 s instead of 2.5.
        with mock.patch.dict(
            os.environ, DBT_INDIRECT_SELECTION="empty", DBT_WRITE_JSON="false"
        ):
            derivation = derive(
                self.path, rebuild=rebuild, select=select, variables=given
            )
        if is_all:
            self._made = self._makes(given) if derivation.succeeded else None
        return derivation

    def _makes(self, variables: Json) -> tuple[Any, ...] | None:
        """What views and seeds are, and are made from; None if one is not there."""
        from orchestration.derive import bookkeeping, dbt_project

        edition = bookkeeping.project_fingerprint(dbt_project.files())
        try:
            with open_for_reading(self.path) as connection:
                [[name]] = connection.execute("select current_database()").fetchall()
                made = bookkeeping.made_fingerprint(connection, name)
        except (WarehouseError, duckdb.CatalogException):
            return None
        return variables, edition, made

    def execute(self, statement: str) -> None:
        self._make()
        with open_for_writing(self.path) as connection:
            connection.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with open_for_reading(self.path) as connection:
            return connection.execute(query).fetchall()

    def records(self, query: str) -> list[Json]:
        """The rows as dicts."""
        with open_for_reading(self.path) as connection:
            result = connection.execute(query)
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def value(self, query: str) -> Any:
        [[value]] = self.rows(query)
        return value

    def table(self, name: str) -> pd.DataFrame:
        """A table or view without `load_id`, in the order of its columns."""
        [frame] = self.tables([name]).values()
        return frame

    def tables(self, names: Sequence[str]) -> dict[str, pd.DataFrame]:
        query = "select columns(lambda c: c != 'load_id') from {} order by all"
        with open_for_reading(self.path) as connection:
            frames = {
                name: connection.execute(query.format(name)).df() for name in names
            }
        for frame in frames.values():
            if "source_event_ids" in frame:
                frame["source_event_ids"] = frame["source_event_ids"].map(tuple)
        return frames

    def state(self) -> dict[str, pd.DataFrame]:
        """Every derived table and view that is not about loads."""
        from orchestration.derive import dbt_project

        names = self.rows(
            f"""
            select table_schema || '.' || table_name
            from information_schema.tables
            where
                table_schema in {tuple(dbt_project.layers())}
                and table_schema != 'staging'
                and table_name not in {ABOUT_LOADS}
            order by all
            """
        )
        return self.tables([name for (name,) in names])


def warehouse_again(folder: Path) -> Warehouse:
    """An empty warehouse where another was.

    dbt parses its project again (0.9 s) whenever the path of the warehouse is another.
    """
    shutil.rmtree(folder)
    folder.mkdir()
    return Warehouse(folder)


@contextmanager
def new_warehouse() -> Iterator[Warehouse]:
    """For a property test, which needs one for each example."""
    with TemporaryDirectory(prefix="lms-") as folder:
        yield Warehouse(Path(folder))


def assert_same_rows(actual: pd.DataFrame, expected: pd.DataFrame, table: str) -> None:
    """The same rows in the same order, of the same types; else says which differ."""
    counted = [
        Counter(repr(row) for row in frame.itertuples(index=False, name=None))
        for frame in (actual, expected)
    ]
    too_many, missing = counted[0] - counted[1], counted[1] - counted[0]
    if too_many or missing:
        raise AssertionError(
            f"{table}: {len(too_many)} rows too many, {len(missing)} missing\n"
            f"too many: {list(too_many)[:5]}\nmissing: {list(missing)[:5]}"
        )
    pd.testing.assert_frame_equal(actual, expected, check_exact=True, obj=table)


def assert_same_state(
    actual: Mapping[str, pd.DataFrame], expected: Mapping[str, pd.DataFrame]
) -> None:
    """The same rows in every table and view."""
    assert actual.keys() == expected.keys()
    for name, frame in expected.items():
        assert_same_rows(actual[name], frame, name)
