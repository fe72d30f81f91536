"""Landing event files: one file is one load, one load is one transaction."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.landing import dead_letters, lines, loads
from ingest.landing.lines import Chunk, EventFile
from ingest.landing.outcomes import CONFLICT, ChunkTable, classify
from ingest.store import database, journal


@dataclass(frozen=True)
class Load:
    """What happened to one file.

    `load_id` is None when nothing was landed: the file was `known` (its content is that
    of an earlier load; its lines were not read again), or it `failed` (why, one line).
    `note` is what whoever landed it should know, one line; `mended` counts the dead
    letters of earlier lines that its events closed.
    """

    file: str
    load_id: int | None = None
    known: bool = False
    failed: str | None = None
    lines_read: int = 0
    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0
    erased: int = 0
    rejected_by_reason: dict[str, int] | None = None
    seconds: float = 0.0
    note: str | None = None
    mended: int = 0


@dataclass(frozen=True)
class Landing:
    """What happened to all files of one call, in the order in which they were taken."""

    loads: tuple[Load, ...]

    @property
    def failures(self) -> tuple[Load, ...]:
        return tuple(load for load in self.loads if load.failed)

    def totals(self) -> dict[str, Any]:
        """Counts over all files; lines per second are over the time spent."""
        seconds = sum(load.seconds for load in self.loads)
        lines_read = sum(load.lines_read for load in self.loads)
        reasons: Counter[str] = Counter()
        for load in self.loads:
            reasons.update(load.rejected_by_reason or {})
        return {
            "files": len(self.loads),
            "files_landed": sum(load.load_id is not None for load in self.loads),
            "files_known": sum(load.known for load in self.loads),
            "files_failed": len(self.failures),
            "lines_read": lines_read,
            "accepted": sum(load.accepted for load in self.loads),
            "duplicate": sum(load.duplicate for load in self.loads),
            "conflict": sum(load.conflict for load in self.loads),
            "rejected": sum(load.rejected for load in self.loads),
            "erased": sum(load.erased for load in self.loads),
            "rejected_by_reason": dict(sorted(reasons.items())),
            "seconds": round(seconds, 3),
            "lines_per_second": round(lines_read / seconds) if seconds else 0,
        }

    def as_json(self) -> dict[str, Any]:
        return {**self.totals(), "loads": self.loads}


def event_files(paths: Iterable[Path]) -> list[Path]:
    """The event files under `paths` (files or folders), each once, in path order.

    Raises `WarehouseError` for a path that is missing or no regular file, a file that
    is no event file and a folder without any.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside, _ = files_below(path)
            if not inside:
                raise WarehouseError(
                    f"{lines.name_of(path)}: a folder without events; expected {_KINDS}"
                )
            found.update(dict.fromkeys(inside))
        elif not path.exists():
            raise WarehouseError(f"{lines.name_of(path)}: no such file or folder")
        elif not path.is_file():
            raise WarehouseError(
                f"{lines.name_of(path)}: not a regular file; write what comes out of a "
                "pipe or a device to a file, and land that"
            )
        elif not lines.is_event_file(path):
            raise WarehouseError(
                f"{lines.name_of(path)}: not an event file; expected {_KINDS}"
            )
        else:
            found[path] = None
    return list(found)


_KINDS = ".ndjson, .jsonl or .json, plain, .gz or .zst"


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The event files below a folder, and what there is passed over, by path.

    Hidden files are not finished, and in neither.
    """
    found: list[Path] = []
    passed_over: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        is_taken = path.is_file() and lines.is_event_file(path)
        (found if is_taken else passed_over).append(path)
    return found, passed_over


def passed_over_line(folder: Path, paths: Sequence[Path]) -> str | None:
    """One line that names what is passed over, with a count; None for nothing."""
    if not paths:
        return None
    shown = ", ".join(lines.name_of(path) for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return (
        f"{lines.name_of(folder)}: {len(paths)} passed over, no regular files named "
        f"{_KINDS}: {shown}{more}"
    )


def land(
    files: Sequence[Path],
    warehouse_path: Path,
    *,
    received_at: datetime | None = None,
    chunk_bytes: int = lines.CHUNK_BYTES,
    on_lines: Callable[[Path, int], None] = lambda _file, _count: None,
) -> Landing:
    """Lands event files, one by one; one that fails does not stop the rest.

    `received_at` (naive, UTC) is the current time if not given. `on_lines` is told
    after each chunk how many lines of a file were taken. Raises `WarehouseError` when
    the warehouse itself cannot be written.
    """
    with database.open_for_writing(warehouse_path, make=True) as connection:
        # Every row carries its file and line: their order in the table says nothing.
        connection.execute("set preserve_insertion_order = false")
        # A chunk's size is unknown to DuckDB: joins are made as they are written.
        connection.execute(
            "set disabled_optimizers = 'join_order,build_side_probe_side'"
        )
        # The column `payload` of what is inserted need not be computed.
        connection.execute("set variable is_landing = true")
        # Keeps the process under 1 GB; without it 1.2 GB, and hardly faster.
        connection.execute("set memory_limit = '400MB'")
        table = ChunkTable(connection)
        landed = tuple(
            _land_file(
                connection,
                table,
                file,
                received_at or database.utc_now(),
                chunk_bytes,
                lambda count, file=file: on_lines(file, count),  # type: ignore[misc]
            )
            for file in files
        )
        if any(load.load_id is not None for load in landed):
            journal.note_loads(connection)
            connection.execute("checkpoint")
    return Landing(landed)


def _land_file(
    connection: duckdb.DuckDBPyConnection,
    table: ChunkTable,
    file: Path,
    received_at: datetime,
    chunk_bytes: int,
    on_lines: Callable[[int], None],
) -> Load:
    started = time.perf_counter()
    name = lines.name_of(file)
    try:
        if is_known(connection, file):
            return Load(
                name, known=True, seconds=round(time.perf_counter() - started, 3)
            )
        opened = EventFile(file)
        with contextlib.closing(opened), database.transaction(connection):
            load = _Landing(connection, table, name, opened, received_at, started)
            load.take(chunk_bytes, on_lines)
            result = load.finish()
        if opened.packing == "zstd" and lines.has_unguarded_frame(file):
            note = (
                f"{name}: packed without a checksum (zstd --no-check): a bit that "
                "flipped before it was landed shows only where it breaks a line; since "
                "then raw.load.file_sha256 guards it"
            )
            result = replace(result, note=note)
    except OSError as error:
        reason = error.strerror or first_line(error)
        return Load(
            name,
            failed=f"{name}: cannot be read to its end ({reason}); nothing of it was "
            "landed: send the file again",
            seconds=round(time.perf_counter() - started, 3),
        )
    return result


def is_known(connection: duckdb.DuckDBPyConnection, file: Path) -> bool:
    """Whether an event file with these bytes, read the same way, was landed before.

    A file is read for its hash only where a load has as many bytes. Loads of earlier
    versions went by the name. Raises `OSError`.
    """
    packing = lines.packing_of(file)
    same_size = connection.execute(
        f"""
        select file_sha256
        from raw.load
        where
            kind = 'events'
            and file_bytes = $1
            and {PACKING} = $2
        """,
        [file.stat().st_size, packing],
    ).fetchall()
    return bool(same_size) and (lines.sha256_of(file),) in same_size


# How a load unpacked its file; those of earlier versions went by the file's name.
PACKING = f"""
    coalesce(packing, case
        when ends_with(file, '.gz') then 'gzip'
        when ends_with(file, '.zst') then 'zstd'
        else '{lines.PLAIN}'
    end)
"""


class _Landing:
    """One load inside its transaction."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: ChunkTable,
        name: str,
        file: EventFile,
        received_at: datetime,
        started: float,
    ) -> None:
        self._connection = connection
        self._table = table
        self._name = name
        self._file = file
        self._received_at = received_at
        self._started = started
        self._load_id = loads.next_load_id(connection)
        self._lines_read = 0
        self._duplicates = 0
        self._erased = 0
        self._reasons: Counter[str] = Counter()

    def take(self, chunk_bytes: int, on_lines: Callable[[int], None]) -> None:
        for chunk in self._file.chunks(chunk_bytes):
            self._take_chunk(chunk)
            on_lines(len(chunk.lines))

    def finish(self) -> Load:
        conflicts = self._reasons.pop(CONFLICT, 0)
        rejected = sum(self._reasons.values())
        refused = conflicts + rejected + self._erased
        accepted = self._lines_read - self._duplicates - refused
        seconds = time.perf_counter() - self._started
        loads.record_load(
            self._connection,
            self._load_id,
            "events",
            self._name,
            self._file.sha256,
            file_bytes=self._file.size,
            file_mtime_ns=self._file.mtime_ns,
            packing=self._file.packing,
            received_at=self._received_at,
            seconds=seconds,
            lines_read=self._lines_read,
            accepted=accepted,
            duplicate=self._duplicates,
            conflict=conflicts,
            rejected=rejected,
            erased=self._erased,
        )
        return Load(
            self._name,
            load_id=self._load_id,
            mended=dead_letters.close_mended(
                self._connection, self._load_id, self._received_at
            ),
            lines_read=self._lines_read,
            accepted=accepted,
            duplicate=self._duplicates,
            conflict=conflicts,
            rejected=rejected,
            erased=self._erased,
            rejected_by_reason=dict(sorted(self._reasons.items())),
            seconds=seconds,
        )

    def _take_chunk(self, chunk: Chunk) -> None:
        outcomes = classify(self._connection, self._table, chunk, self._received_at)
        self._lines_read += len(chunk.lines) - outcomes.blank
        self._duplicates += outcomes.duplicate
        self._erased += outcomes.erased
        self._bury()
        self._connection.execute(
            """
            insert into raw.lms_event by name
            select
                *,
                $received_at::timestamp as received_at,
                $load_id as load_id,
                $file as file
            from accepted
            """,
            {
                "received_at": self._received_at,
                "load_id": self._load_id,
                "file": self._name,
            },
        )

    def _bury(self) -> None:
        reasons = self._connection.execute(
            "select reason, count(*) from dead group by reason"
        ).fetchall()
        if not reasons:
            return
        self._reasons.update(dict(reasons))
        self._connection.execute(
            """
            insert into raw.dead_letter by name
            select
                *,
                $load_id as load_id,
                $file as file,
                $first_seen::timestamp as first_seen,
                1 as attempts
            from dead
            """,
            {
                "load_id": self._load_id,
                "file": self._name,
                "first_seen": self._received_at,
            },
        )
