"""Landing catalogue snapshots: one CSV file is one full snapshot is one load."""

import csv
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.contracts import validation
from ingest.errors import WarehouseError
from ingest.landing import lines, loads
from ingest.store import database, journal
from ingest.store.files import open_regular

_COLUMNS = ("class_id", "course_id", "title", "position", "has_video", "has_quiz")
_LARGEST_POSITION = 2**31 - 1
# A snapshot's file name may say from when it holds: effective_from=2026-10-01.csv.
_EFFECTIVE_FROM = re.compile(r"effective_from=([^/]+)")


@dataclass(frozen=True)
class CatalogueClass:
    """One row of a snapshot; `has_video` and `has_quiz` are 0 or 1."""

    class_id: str
    course_id: str
    title: str
    position: int
    has_video: int
    has_quiz: int


@dataclass(frozen=True)
class CatalogueLoad:
    """What happened to a snapshot; if it was `known`, `load_id` is the earlier load."""

    file: str
    load_id: int
    known: bool
    effective_from: datetime
    classes: int
    courses: int


def snapshot_files(path: Path) -> list[Path]:
    """The snapshots at `path`: itself or, for a folder, its CSV files.

    Those without a time in their names come first, then by that time, then by name.
    Raises `WarehouseError` when there is none.
    """
    if not path.is_dir():
        return [path]
    files = [file for file in path.glob("*.csv") if not file.name.startswith(".")]
    if not files:
        raise WarehouseError(f"{path}: a folder without catalogue snapshots (.csv)")
    beginning = datetime.min
    return sorted(
        files, key=lambda file: (effective_from_of(file) or beginning, file.name)
    )


def read_snapshot(path: Path) -> list[CatalogueClass]:
    """The rows of a snapshot. Raises `WarehouseError` naming file, line and field."""
    return _snapshot_in(path, read_csv(path)[0])


def _snapshot_in(path: Path, content: bytes) -> list[CatalogueClass]:
    seen: dict[str, int] = {}
    rows = []
    for line_number, values in csv_rows(path, content, _COLUMNS):
        place = f"{path}: line {line_number}"
        parsed = _read_row(values, place)
        if parsed.class_id in seen:
            raise WarehouseError(
                f"{place}: class_id {parsed.class_id!r} stands at line "
                f"{seen[parsed.class_id]} already; keep one of them"
            )
        seen[parsed.class_id] = line_number
        rows.append(parsed)
    if not rows:
        raise WarehouseError(
            f"{path}: a snapshot without classes would retire every class; nothing was "
            "landed"
        )
    return rows


def read_csv(path: Path) -> tuple[bytes, int]:
    """What the file holds, and when it was changed last before it was read.

    Raises `WarehouseError`.
    """
    try:
        with open_regular(path) as file:
            changed = os.fstat(file.fileno()).st_mtime_ns
            return file.readall() or b"", changed
    except FileNotFoundError:
        raise WarehouseError(f"{path}: no such file") from None
    except OSError as error:
        reason = error.strerror or error
        raise WarehouseError(f"{path}: cannot be read ({reason})") from None


def csv_rows(
    path: Path, content: bytes, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row's line number, and its values of the columns; others are ignored.

    Raises `WarehouseError` for a file that is no CSV file with these columns.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WarehouseError(f"{path}: not a UTF-8 CSV file ({error})") from None
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise WarehouseError(
                f"{path}: line 1: no column {', '.join(missing)}; expected the header "
                f"{','.join(columns)}"
            )
        for row in reader:
            for name in columns:
                if row[name] is None:
                    raise WarehouseError(
                        f"{path}: line {reader.line_num}: {name}: no value; the line "
                        "is cut short"
                    )
            yield reader.line_num, {name: row[name] for name in columns}
    except csv.Error as error:
        raise WarehouseError(f"{path}: line {reader.line_num}: {error}") from None


def check_id(values: Mapping[str, str], name: str, place: str) -> None:
    """Raises `WarehouseError` for what is no id."""
    if not values[name].strip() or len(values[name]) > 256:
        raise WarehouseError(
            f"{place}: {name}: expected 1 to 256 characters, not blank"
        )


def _read_row(values: Mapping[str, str], place: str) -> CatalogueClass:
    for name in ("class_id", "course_id"):
        check_id(values, name, place)
    for name in ("has_video", "has_quiz"):
        if values[name] not in ("0", "1"):
            raise WarehouseError(
                f"{place}: {name}: expected 0 or 1, got {values[name]!r}"
            )
    position = values["position"]
    if not re.fullmatch(r"-?\d{1,10}", position, re.ASCII) or (
        abs(int(position)) > _LARGEST_POSITION
    ):
        raise WarehouseError(
            f"{place}: position: expected a whole number, got {position!r}"
        )
    return CatalogueClass(
        values["class_id"],
        values["course_id"],
        values["title"],
        int(position),
        int(values["has_video"]),
        int(values["has_quiz"]),
    )


def effective_from_of(path: Path) -> datetime | None:
    """The time in a name like `effective_from=2026-10-01.csv`, naive and in UTC.

    A date is that day's midnight in UTC, a time is RFC 3339. None if the name says
    nothing; raises `WarehouseError` if it says something else.
    """
    match = _EFFECTIVE_FROM.search(path.stem)
    return parse_moment(match.group(1), str(path)) if match else None


def parse_moment(text: str, place: str = "--effective-from") -> datetime:
    """An RFC 3339 time, or a date for its midnight in UTC, as a naive time in UTC."""
    try:
        is_date = re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII)
        return validation.parse_occurred_at(f"{text}T00:00:00Z" if is_date else text)
    except (ValueError, OverflowError) as error:
        raise WarehouseError(
            f"{place}: {text!r}: {error}; expected 2026-10-01 or 2026-10-01T08:00:00Z"
        ) from None


def land_catalogue(
    path: Path,
    warehouse_path: Path,
    *,
    effective_from: datetime | None = None,
    received_at: datetime | None = None,
) -> CatalogueLoad:
    """Lands one snapshot: all of it or, when a row is wrong, nothing.

    It holds from `effective_from` (else the time in its file name, else `received_at`,
    else now; all naive, in UTC) until the next. The same content for the same time, or
    for no time and right after itself, is known and not landed again. Raises
    `WarehouseError`.
    """
    started = time.perf_counter()
    content, mtime_ns = read_csv(path)
    rows = _snapshot_in(path, content)
    received_at = received_at or database.utc_now()
    given = effective_from or effective_from_of(path)
    file_sha256 = lines.sha256_hex(content)
    load = CatalogueLoad(
        file=lines.name_of(path),
        load_id=0,
        known=False,
        effective_from=given or received_at,
        classes=len(rows),
        courses=len({row.course_id for row in rows}),
    )
    with database.open_for_writing(warehouse_path, make=True) as connection:
        known = _known_load(connection, file_sha256, given)
        if known is not None:
            return replace(load, load_id=known, known=True)
        load = replace(load, load_id=loads.next_load_id(connection))
        with database.transaction(connection):
            _insert(connection, rows, load.load_id, load.effective_from)
            loads.record_load(
                connection,
                load.load_id,
                "catalogue",
                lines.name_of(path),
                file_sha256,
                file_bytes=len(content),
                file_mtime_ns=mtime_ns,
                received_at=received_at,
                seconds=round(time.perf_counter() - started, 3),
            )
        journal.note_loads(connection)
    return load


def _known_load(
    connection: duckdb.DuckDBPyConnection,
    file_sha256: str,
    effective_from: datetime | None,
) -> int | None:
    """The load that landed this content for this time, or last if there is no time."""
    found = connection.execute(
        """
        select load.load_id
        from raw.load
        where
            load.kind = 'catalogue'
            and load.file_sha256 = $1
            and case
                when $2::timestamp is null
                    then load.load_id = (
                        select max(last.load_id)
                        from raw.load as last
                        where last.kind = 'catalogue'
                    )
                else load.load_id in (
                    select catalogue.load_id
                    from raw.catalogue
                    where catalogue.effective_from = $2::timestamp
                )
            end
        """,
        [file_sha256, effective_from],
    ).fetchone()
    return int(found[0]) if found else None


def _insert(
    connection: duckdb.DuckDBPyConnection,
    rows: list[CatalogueClass],
    load_id: int,
    effective_from: datetime,
) -> None:
    values = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
    columns = ", ".join(f"unnest(${name}) as {name}" for name in values)
    connection.execute(
        f"""
        insert into raw.catalogue by name
        select
            $load_id as load_id, $effective_from::timestamp as effective_from, {columns}
        """,
        {"load_id": load_id, "effective_from": effective_from, **values},
    )
