"""Landing event files: one file is one load, one load is one transaction."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from ingest.landing import lines
from ingest.landing.lines import Chunk
from ingest.landing.outcomes import CONFLICT, ChunkTable, classify
from ingest.store import database, loads
from ingest.store.database import WarehouseError


@dataclass(frozen=True)
class Load:
    """What happened to one file.

    `load_id` is None when nothing was landed: the file was `known` (its content is that
    of an earlier load; its lines were not read again), or it `failed` (why, one line).
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
        return {**self.totals(), "loads": [asdict(load) for load in self.loads]}


def event_files(paths: Iterable[Path]) -> list[Path]:
    """The event files under `paths` (files or folders), each once, in path order.

    Raises `WarehouseError` for a path that is missing, a file that is no event file and
    a folder without any.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.is_file() and lines.is_event_file(file)
            )
            if not inside:
                raise WarehouseError(
                    f"{path}: a folder without events; expected .ndjson or .jsonl "
                    "files, plain, .gz or .zst"
                )
            found.update(dict.fromkeys(inside))
        elif not path.exists():
            raise WarehouseError(f"{path}: no such file or folder")
        elif not lines.is_event_file(path):
            raise WarehouseError(
                f"{path}: not an event file; expected .ndjson or .jsonl, plain, .gz or "
                ".zst"
            )
        else:
            found[path] = None
    return list(found)


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
    with database.open_for_writing(warehouse_path) as connection:
        # Every row carries its file and line: their order in the table says nothing.
        connection.execute("set preserve_insertion_order = false")
        # A chunk's size is unknown to DuckDB: joins are made as they are written.
        connection.execute(
            "set disabled_optimizers = 'join_order,build_side_probe_side'"
        )
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
    try:
        file_sha256 = lines.sha256_of(file)
        if is_known(connection, file_sha256):
            return Load(str(file), known=True, seconds=time.perf_counter() - started)
        with database.transaction(connection):
            load = _Landing(connection, table, file, received_at, started)
            load.take(chunk_bytes, on_lines)
            result = load.finish(file_sha256)
    except OSError as error:
        reason = error.strerror or database.first_line(error)
        return Load(
            str(file),
            failed=f"{file}: cannot be read to its end ({reason}); nothing of it was "
            "landed: send the file again",
            seconds=time.perf_counter() - started,
        )
    return result


def is_known(connection: duckdb.DuckDBPyConnection, file_sha256: str) -> bool:
    """Whether an event file with this content was landed before."""
    found = connection.execute(
        "select 1 from raw.load where kind = 'events' and file_sha256 = $1 limit 1",
        [file_sha256],
    ).fetchone()
    return found is not None


class _Landing:
    """One load inside its transaction."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: ChunkTable,
        file: Path,
        received_at: datetime,
        started: float,
    ) -> None:
        self._connection = connection
        self._table = table
        self._file = file
        self._received_at = received_at
        self._started = started
        self._load_id = loads.next_load_id(connection)
        self._lines_read = 0
        self._duplicates = 0
        self._erased = 0
        self._reasons: Counter[str] = Counter()

    def take(self, chunk_bytes: int, on_lines: Callable[[int], None]) -> None:
        source = lines.open_source(self._file)
        for chunk in lines.read_chunks(source, chunk_bytes):
            self._take_chunk(chunk)
            on_lines(len(chunk.lines))

    def finish(self, file_sha256: str) -> Load:
        conflicts = self._reasons.pop(CONFLICT, 0)
        rejected = sum(self._reasons.values())
        refused = conflicts + rejected + self._erased
        accepted = self._lines_read - self._duplicates - refused
        seconds = time.perf_counter() - self._started
        loads.record_load(
            self._connection,
            self._load_id,
            "events",
            self._file,
            file_sha256,
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
            str(self._file),
            load_id=self._load_id,
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
                "file": str(self._file),
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
                "file": str(self._file),
                "first_seen": self._received_at,
            },
        )
