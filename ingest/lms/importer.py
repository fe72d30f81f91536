"""Moving in: the events and the catalogue of an LMS export, landed like all others.

Each row of `lms_event` becomes one NDJSON line. Those that the warehouse has not got
are written to a file in the landing zone, and that file is landed: contracts, dead
letters, duplicates, conflicts and tombstones hold for them as for all events, and the
landing zone has what is needed to derive everything again. The line of a row is the
same in every export, so that a newer one lands only what is new. `lms_class` becomes a
catalogue snapshot.
"""

import csv
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from ingest.contracts.events import event_types
from ingest.errors import WarehouseError
from ingest.landing import catalogue, event_files, lines, quiz_register
from ingest.landing.catalogue import CatalogueClass, CatalogueLoad
from ingest.landing.event_files import Load
from ingest.landing.quiz_register import QuizRegister
from ingest.lms.export import (
    CLASSES,
    COURSES,
    CRM_EVENTS,
    EVENTS,
    Export,
    open_export,
)
from ingest.store import database, files, tombstones

# In each line that comes from an export, beside the fields of the envelope.
SOURCE = "lms_event"
DEFAULT_PASS_MARK = 80.0

# What the LMS's payloads are in our contracts; other types begin with version 1.
_VERSIONS = {"VIDEO_PING": 2}
_EVENT_COLUMNS = ("id", "type", "user_id", "class_id", "occurred_at", "payload_json")
_CLASS_COLUMNS = ("id", "course_id", "name", "sys_order_index", "media_json")
_BATCH_ROWS = 50_000

_EPOCH = datetime(1970, 1, 1)
# Date.now() is in milliseconds, unixepoch() in seconds: as seconds this is the year
# 5138, as milliseconds March 1973.
_FIRST_MILLISECONDS = 100_000_000_000
_NUMBER = re.compile(r"\d{9,16}(\.\d+)?", re.ASCII)
_WITHOUT_OFFSET = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)", re.ASCII
)


# --- one event -----------------------------------------------------------------------


class LmsEvent(NamedTuple):
    """A row of `lms_event` as it is there, whatever types its values have."""

    id: Any
    type: Any
    user_id: Any
    course_id: Any
    class_id: Any
    occurred_at: Any
    payload_json: Any
    context_json: Any
    created_at: Any


@dataclass(frozen=True)
class LmsClass:
    """A row of `lms_class`; `pass_mark` (in %) and `quiz_form` are of its first quiz.

    `media` are the types of its media, in capitals.
    """

    class_id: str
    course_id: str
    title: str
    order_index: int
    is_section: bool
    parent_id: str | None
    media: tuple[str, ...] = ()
    quiz_form: str | None = None
    pass_mark: float | None = None


@dataclass(frozen=True)
class Classes:
    """What events leave out and their class says.

    A pass mark of the quiz register goes before what the class says.
    """

    by_id: Mapping[str, LmsClass] = field(default_factory=dict)
    register: QuizRegister = field(default_factory=QuizRegister)

    def quiz_id(self, class_id: str) -> str:
        """The form of the class's quiz; a class without one names its quiz itself."""
        known = self.by_id.get(class_id)
        return (known and known.quiz_form) or class_id

    def pass_mark(self, class_id: str, quiz_id: object) -> float:
        known = self.by_id.get(class_id)
        quiz = self.register.quiz(str(quiz_id), class_id)
        if quiz:
            return float(quiz.pass_mark)
        return (known and known.pass_mark) or DEFAULT_PASS_MARK


def has_passed(score: float, max_score: float, pass_mark: float) -> bool:
    """Whether the percentage, rounded to a whole one, reaches the mark.

    Half is rounded up, as JavaScript's `Math.round` does, with which the LMS decides:
    79.5 % passes at 80. (Python's `round` goes to the even one.)
    """
    return math.floor(100 * score / max_score + 0.5) >= pass_mark


def as_event(
    row: LmsEvent, classes: Classes, filled: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The row as an event in our shape. It is one only if its contract says so.

    What the payload leaves out is taken from `filled`, what it was filled with when it
    was landed first, or else from the class: the class may have changed since then, the
    event has not.
    """
    event_type = _as_text(row.type)
    class_id = _as_text(row.class_id)
    payload = payload_of(row, classes, filled)
    event = {
        "event_id": _as_text(row.id),
        "type": event_type,
        "schema_version": _VERSIONS.get(event_type, 1),
        "user_id": _as_text(row.user_id),
        "class_id": class_id,
        "course_id": _as_text(row.course_id),
        "occurred_at": in_utc(row.occurred_at),
        "payload": payload,
        "source": SOURCE,
        "created_at": in_utc(row.created_at),
        "context": _parsed(row.context_json),
    }
    for name in ("course_id", "created_at", "context"):
        if event[name] is None:
            del event[name]
    return event


def payload_of(
    row: LmsEvent, classes: Classes, filled: Mapping[str, Any] | None = None
) -> Any:
    """The payload in our shape, with what it leaves out; a text where it is no JSON."""
    payload = _parsed(row.payload_json)
    if not isinstance(payload, dict):
        return payload
    return _filled_in(
        _as_text(row.type), _as_text(row.class_id), payload, classes, filled or {}
    )


def event_line(
    row: LmsEvent, classes: Classes, filled: Mapping[str, Any] | None = None
) -> str:
    """The NDJSON line of a row, as `as_event` reads it."""
    event = as_event(row, classes, filled)
    try:
        return msgspec.json.encode(event).decode()
    except (UnicodeEncodeError, OverflowError):
        # Text that was no UTF-8 has surrogates; escaped, it is rejected for that.
        return json.dumps(event, separators=(",", ":"))


def _as_text(value: Any) -> Any:
    """An id that is a number there is text here; what is neither is left to fail."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}  # no contract takes an object for a text
    return str(value) if isinstance(value, int) else value


def _parsed(text: Any) -> Any:
    """JSON as JavaScript reads it: of a key that stands twice the last one counts.

    What is no JSON stays text: no contract has a text for a payload.
    """
    if not isinstance(text, str):
        return _as_text(text)
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text


def _filled_in(
    event_type: Any,
    class_id: Any,
    payload: dict[str, Any],
    classes: Classes,
    filled: Mapping[str, Any],
) -> dict[str, Any]:
    if event_type == "VIDEO_PING" and payload.get("video_id") is None:
        return {**payload, "video_id": class_id}
    if event_type == "QUIZ_SUBMIT" and isinstance(class_id, str):
        payload = dict(payload)
        if payload.get("quiz_id") is None:
            payload["quiz_id"] = filled.get("quiz_id") or classes.quiz_id(class_id)
        if payload.get("passed") is None:
            passed = filled.get("passed")
            if passed is None:
                passed = _passed(class_id, payload, classes)
            payload["passed"] = passed
        if payload["passed"] is None:
            del payload["passed"]
    return payload


def _passed(class_id: str, payload: dict[str, Any], classes: Classes) -> bool | None:
    score, max_score = payload.get("score"), payload.get("max_score")
    for number in (score, max_score):
        if isinstance(number, bool) or not isinstance(number, int | float):
            return None
    mark = classes.pass_mark(class_id, payload["quiz_id"])
    try:
        return has_passed(score, max_score, mark)  # type: ignore[arg-type]
    except (ArithmeticError, ValueError):
        return None


def in_utc(value: Any) -> Any:
    """A time as D1 and JavaScript write it, in RFC 3339; anything else as it is.

    `new Date().toISOString()` is RFC 3339 already. SQLite's `datetime('now')` has a
    space for the `T` and no offset: it is in UTC, and so is every time without one.
    `unixepoch()` counts seconds and `Date.now()` milliseconds, as numbers or, in a
    column of text, as their digits.
    """
    if isinstance(value, str):
        if match := _WITHOUT_OFFSET.fullmatch(value):
            date, clock = match.groups()
            return f"{date}T{clock if clock.count(':') > 1 else f'{clock}:00'}Z"
        if not _NUMBER.fullmatch(value):
            return value
        value = float(value) if "." in value else int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        unit = "milliseconds" if abs(value) >= _FIRST_MILLISECONDS else "seconds"
        try:
            return f"{(_EPOCH + timedelta(**{unit: value})).isoformat()}Z"
        except (OverflowError, ValueError):
            return value
    return _as_text(value)


def events(export: Export) -> Iterator[LmsEvent]:
    """Every row of `lms_event`, in the order in which they arrived in the LMS."""
    return map(LmsEvent._make, export.rows(events_query(export, order_by="rowid")))


def events_query(export: Export, *, order_by: str) -> str:
    export.require(EVENTS, _EVENT_COLUMNS)
    columns = ", ".join(export.column(EVENTS, name) for name in LmsEvent._fields)
    return f"select {columns} from {EVENTS} order by {order_by}"


# --- the catalogue -------------------------------------------------------------------


def classes(export: Export) -> dict[str, LmsClass]:
    """The rows of `lms_class` by id, sections too; none where there is no table."""
    if not export.has(CLASSES):
        return {}
    export.require(CLASSES, _CLASS_COLUMNS)
    names = (*_CLASS_COLUMNS, "node_kind", "parent_class_id")
    columns = ", ".join(export.column(CLASSES, name) for name in names)
    found = {}
    for row in export.rows(f"select {columns} from {CLASSES} order by id"):
        class_id, course_id, title, order_index, media_json, kind, parent_id = row
        media = _media(media_json)
        quiz = next((each for each in media if _medium_type(each) == "QUIZ"), {})
        found[str(class_id)] = LmsClass(
            class_id=str(class_id),
            course_id="" if course_id is None else str(course_id),
            title="" if title is None else str(title),
            order_index=int(order_index) if isinstance(order_index, int | float) else 0,
            is_section=str(kind or "LESSON").upper() == "SECTION",
            parent_id=None if parent_id is None else str(parent_id),
            media=tuple(_medium_type(each) for each in media),
            quiz_form=next(_forms(quiz), None),
            pass_mark=_mark(quiz.get("pass_threshold")),
        )
    return found


def _media(media_json: Any) -> list[dict[str, Any]]:
    """A class whose media cannot be read asks for nothing: it is not tracked."""
    media = _parsed(media_json)
    if not isinstance(media, list):
        media = [media]
    return [each for each in media if isinstance(each, dict)]


def _medium_type(medium: Mapping[str, Any]) -> str:
    """The type in capitals; whatever has a Tally form is a quiz."""
    if next(_forms(medium), None):
        return "QUIZ"
    return str(medium.get("type") or "").upper()


def _forms(medium: Mapping[str, Any]) -> Iterator[str]:
    """The medium's Tally forms: its own one first, then those by language."""
    by_language = medium.get("tally_form_ids")
    if isinstance(by_language, dict):
        by_language = [by_language[language] for language in sorted(by_language)]
    others = by_language if isinstance(by_language, list) else []
    for value in (medium.get("tally_form_id"), *others):
        if form := _form(value):
            yield form


def _form(value: Any) -> str | None:
    text = str(value) if isinstance(value, str | int) else ""
    return text if text.strip() else None


def _mark(value: Any) -> float | None:
    """A pass mark in %; none, or 0, is the LMS's own."""
    try:
        mark = float(value)
    except (TypeError, ValueError):
        return None
    return mark if math.isfinite(mark) and mark > 0 else None


def catalogue_rows(by_id: Mapping[str, LmsClass]) -> list[CatalogueClass]:
    """The lessons as a snapshot, by course and position; sections are none.

    A position is the lesson's own number. Where lessons of a course share one, because
    each section counts anew, it is the place in the order of the sections.
    """
    lessons = [each for each in by_id.values() if not each.is_section]
    courses: dict[str, list[LmsClass]] = {}
    for lesson in lessons:
        courses.setdefault(lesson.course_id, []).append(lesson)
    rows = []
    for course_id in sorted(courses):
        ordered = sorted(courses[course_id], key=lambda each: _path(each, by_id))
        numbers = [lesson.order_index for lesson in ordered]
        if len(set(numbers)) < len(numbers):
            numbers = list(range(1, len(ordered) + 1))
        rows += [
            CatalogueClass(
                class_id=lesson.class_id,
                course_id=course_id,
                title=lesson.title,
                position=number,
                has_video=int("VIDEO" in lesson.media),
                has_quiz=int("QUIZ" in lesson.media),
            )
            for lesson, number in sorted(
                zip(ordered, numbers, strict=True), key=lambda pair: pair[1]
            )
        ]
    return rows


def _path(lesson: LmsClass, by_id: Mapping[str, LmsClass]) -> list[tuple[int, str]]:
    """The numbers from the course down to the lesson; a ring of parents is cut."""
    path: list[tuple[int, str]] = []
    seen = set()
    node: LmsClass | None = lesson
    while node and node.class_id not in seen:
        seen.add(node.class_id)
        path.append((node.order_index, node.class_id))
        node = by_id.get(node.parent_id) if node.parent_id else None
    return path[::-1]


# --- the import ----------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """What became of an export; all counts are rows of `lms_event` but for the last.

    events = known + erased + the lines of `load` + set aside. `known` rows are in the
    warehouse, as an event or a dead letter, with the very line that they make. `load`
    is None where nothing was new. `set_aside` are those of types without a contract, by
    type, and `newly_set_aside` how many of them were not set aside before. `left` are
    the rows of `crm_event` by type: a view or a form there has no position and no
    score, so no contract takes them.
    """

    file: str
    events: int
    known: int
    erased: int
    set_aside: dict[str, int]
    newly_set_aside: int
    load: Load | None
    catalogue: CatalogueLoad | None
    catalogue_failed: str | None
    courses: int
    sections: int
    left: dict[str, int]
    seconds: float

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each part that could not be landed."""
        landed = (self.load.failed if self.load else None, self.catalogue_failed)
        return tuple(line for line in landed if line)

    @property
    def has_news(self) -> bool:
        """Whether there is something to derive from."""
        accepted = self.load.accepted if self.load else 0
        return bool(accepted) or (
            self.catalogue is not None and not self.catalogue.known
        )


def import_lms(
    path: Path,
    warehouse_path: Path,
    landing_zone: Path,
    *,
    register: QuizRegister = quiz_register.NO_QUIZZES,
    received_at: datetime | None = None,
) -> Import:
    """Imports an export: what the warehouse has not got of its events, its catalogue.

    The same again lands nothing. `register` has the forms' pass marks. Killed at
    any instant, it goes on from there when it is run again. Raises `WarehouseError`.
    """
    started = time.perf_counter()
    received_at = received_at or database.utc_now()
    with open_export(path) as export:
        export.require(EVENTS, _EVENT_COLUMNS)
        by_id = classes(export)
        snapshot, failed = _land_catalogue(
            path, catalogue_rows(by_id), warehouse_path, landing_zone, received_at
        )
        known_classes = Classes(by_id, register)
        new = _Sifting(export, known_classes, warehouse_path, received_at)
        file = new.write(landing_zone / "events")
        courses = _count(export, COURSES)
        left = _left(export)
    load = None
    if file:
        [load] = event_files.land([file], warehouse_path, received_at=received_at).loads
    return Import(
        file=str(path),
        events=new.events,
        known=new.known,
        erased=new.erased,
        set_aside=dict(sorted(new.set_aside.items())),
        newly_set_aside=new.newly_set_aside,
        load=load,
        catalogue=snapshot,
        catalogue_failed=failed,
        courses=courses,
        sections=sum(each.is_section for each in by_id.values()),
        left=left,
        seconds=round(time.perf_counter() - started, 3),
    )


def _left(export: Export) -> dict[str, int]:
    if not export.has(CRM_EVENTS):
        return {}
    names = export.columns[CRM_EVENTS]
    event_type = next((n for n in ("type", "event_type", "kind") if n in names), None)
    column = f'"{event_type}"' if event_type else "null"
    rows = export.rows(f"select {column}, count(*) from {CRM_EVENTS} group by 1")
    counted = ((_key(value) if value is not None else "", n) for value, n in rows)
    return dict(sorted(counted))


def _count(export: Export, table: str) -> int:
    if not export.has(table):
        return 0
    [(count,)] = export.rows(f"select count(*) from {table}")
    return int(count)


def _land_catalogue(
    path: Path,
    rows: list[CatalogueClass],
    warehouse_path: Path,
    landing_zone: Path,
    received_at: datetime,
) -> tuple[CatalogueLoad | None, str | None]:
    """The snapshot's load, known if it has not changed, or why there is none.

    An export without classes says nothing of the catalogue.
    """
    if not rows:
        return None, None
    unfinished = _new_file(landing_zone / "catalogue", path)
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(asdict(rows[0]))
        writer.writerows(asdict(row).values() for row in rows)
    try:
        catalogue.read_snapshot(unfinished)
        snapshot = _hand_over(unfinished, path, ".csv")
        return (
            catalogue.land_catalogue(snapshot, warehouse_path, received_at=received_at),
            None,
        )
    except WarehouseError as error:
        reason = str(error).removeprefix(f"{unfinished}: ")
        return None, f"{path}: {CLASSES}, as a snapshot: {reason}"
    finally:
        unfinished.unlink(missing_ok=True)


def _new_file(folder: Path, export: Path) -> Path:
    """Hidden, so that the loader leaves it alone; a killed import's is overwritten."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WarehouseError(
            f"{folder}: cannot be made ({error.strerror}); set LMS_LANDING"
        ) from error
    return folder / f".{_stem(export)}.importing"


def _stem(export: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", f"lms-{export.stem}", flags=re.ASCII)[:80]


def _hand_over(unfinished: Path, export: Path, suffix: str) -> Path:
    """The finished file, durable, under a name that its content gives it."""
    digest = lines.sha256_of(unfinished)[:12]
    finished = unfinished.with_name(f"{_stem(export)}-{digest}{suffix}")
    files.rename_durably(unfinished, finished)
    return finished


class _Sifting:
    """Goes through the rows once: what is new is written, the rest counted."""

    def __init__(
        self,
        export: Export,
        classes: Classes,
        warehouse_path: Path,
        received_at: datetime,
    ) -> None:
        self._export = export
        self._classes = classes
        self._warehouse_path = warehouse_path
        self._received_at = received_at
        self.events = self.known = self.erased = self.newly_set_aside = 0
        self.set_aside: Counter[str] = Counter()

    def write(self, folder: Path) -> Path | None:
        """The file with the new lines; None if there are none."""
        unfinished = _new_file(folder, self._export.path)
        written = 0
        rows = events(self._export)
        try:
            with (
                database.open_for_writing(
                    self._warehouse_path, make=True
                ) as connection,
                database.transaction(connection),
                unfinished.open("w", encoding="utf-8") as file,
            ):
                buried = tombstones.read(connection)
                while batch := list(islice(rows, _BATCH_ROWS)):
                    for line in self._new_lines(connection, batch, buried):
                        file.write(line)
                        file.write("\n")
                        written += 1
            if not written:
                return None
            return _hand_over(unfinished, self._export.path, ".ndjson")
        except OSError as error:
            raise WarehouseError(
                f"{folder}: cannot be written ({error.strerror}); nothing was landed"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _new_lines(
        self,
        connection: duckdb.DuckDBPyConnection,
        batch: list[LmsEvent],
        buried: tombstones.Tombstones | None,
    ) -> list[str]:
        self.events += len(batch)
        if buried:
            erased = set(buried.erased({_key(row.user_id) for row in batch}))
            left = [row for row in batch if _key(row.user_id) not in erased]
            self.erased += len(batch) - len(left)
            batch = left
        types = frozenset(event_types())
        # No type at all is a fault, for the contracts to find.
        others = [row for row in batch if row.type is not None]
        others = [row for row in others if row.type not in types]
        mine = [row for row in batch if row.type is None or row.type in types]
        self._set_aside(connection, others)
        filled = _filled_before(connection, mine)
        texts = [
            event_line(row, self._classes, filled.get(_key(row.id))) for row in mine
        ]
        known = _known(connection, [_key(row.id) for row in mine], texts)
        self.known += len(known)
        return [text for index, text in enumerate(texts) if index not in known]

    def _set_aside(
        self, connection: duckdb.DuckDBPyConnection, rows: list[LmsEvent]
    ) -> None:
        if not rows:
            return
        self.set_aside.update(_key(row.type) for row in rows)
        [[count]] = connection.execute(
            """
            insert into raw.event_without_contract by name
            select
                *,
                $received_at::timestamp as received_at,
                $file as file
            from (
                select
                    unnest($event_id) as event_id,
                    unnest($type) as type,
                    unnest($user_id) as user_id,
                    unnest($class_id) as class_id,
                    unnest($line) as line
            )
            where event_id not in (select event_id from raw.event_without_contract)
            qualify row_number() over (partition by event_id) = 1
            """,
            {
                "event_id": [_key(row.id) for row in rows],
                "type": [_key(row.type) for row in rows],
                "user_id": [_key(row.user_id) for row in rows],
                "class_id": [_key(row.class_id) for row in rows],
                "line": [event_line(row, self._classes) for row in rows],
                "received_at": self._received_at,
                "file": str(self._export.path),
            },
        ).fetchall()
        self.newly_set_aside += count


def _key(value: Any) -> str:
    """A value of any type as text that Arrow takes, to find a row by."""
    if isinstance(value, bytes):
        return value.hex()
    return str(value).encode("utf-8", "replace").decode()


def _filled_before(
    connection: duckdb.DuckDBPyConnection, rows: list[LmsEvent]
) -> dict[str, dict[str, Any]]:
    """What the payloads of submissions have in the warehouse, by event id."""
    submissions = [_key(row.id) for row in rows if row.type == "QUIZ_SUBMIT"]
    if not submissions:
        return {}
    found = connection.execute(
        """
        select
            event_id,
            json_extract_string(line, '$.payload.quiz_id'),
            json_extract_string(line, '$.payload.passed')
        from raw.lms_event
        where type = 'QUIZ_SUBMIT' and event_id in (select unnest($1))
        """,
        [submissions],
    ).fetchall()
    return {
        event_id: {"quiz_id": quiz_id, "passed": passed == "true"}
        for event_id, quiz_id, passed in found
    }


def _known(
    connection: duckdb.DuckDBPyConnection, event_ids: list[str], texts: list[str]
) -> set[int]:
    """Which of the lines are an event, or a dead letter that is kept or discarded.

    Events are found by their key: lines are compared for those alone.
    """
    connection.execute(
        """
        create or replace temp table incoming as
        select
            unnest($number) as number,
            unnest($event_id) as event_id,
            unnest($line) as line
        """,
        {"number": list(range(len(texts))), "event_id": event_ids, "line": texts},
    )
    rows = connection.execute(
        """
        with

        keyed as (

            select
                number,
                line,
                coalesce(try_cast(event_id as uuid), md5_number(event_id)::uuid)
                    as event_key
            from incoming

        ),

        landed as (

            select event_key, line
            from raw.lms_event
            where event_key in (select event_key from keyed)

        )

        select keyed.number
        from keyed
        semi join landed using (event_key, line)
        """
    ).fetchall()
    letters = """
        select line_sha256 from raw.dead_letter
        union all
        select line_sha256 from raw.discarded_letter
    """
    if connection.execute(f"select exists ({letters})").fetchone() == (True,):
        rows += connection.execute(
            f"select number from incoming where sha256(line) in ({letters})"
        ).fetchall()
    return {number for (number,) in rows}
