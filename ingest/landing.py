"""Landing event files: one file is one load, one load is one transaction."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ingest import lines, validation, warehouse
from ingest.lines import BadLine, Chunk
from ingest.validation import Event, Rejection
from ingest.warehouse import WarehouseError

# An Arrow stream of one batch would be read by one thread.
_BATCH_LINES = 20_480


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
    with warehouse.open_for_writing(warehouse_path) as connection:
        # Every row carries its file and line: their order in the table says nothing.
        connection.execute("set preserve_insertion_order = false")
        loads = tuple(
            _land_file(
                connection,
                file,
                received_at or warehouse.utc_now(),
                chunk_bytes,
                lambda count, file=file: on_lines(file, count),  # type: ignore[misc]
            )
            for file in files
        )
        if any(load.load_id is not None for load in loads):
            connection.execute("checkpoint")
    return Landing(loads)


def _land_file(
    connection: duckdb.DuckDBPyConnection,
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
        connection.execute("begin")
        try:
            load = _Landing(connection, file, received_at, started)
            load.take(chunk_bytes, on_lines)
            result = load.finish(file_sha256)
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
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
        file: Path,
        received_at: datetime,
        started: float,
    ) -> None:
        self._connection = connection
        self._file = file
        self._received_at = received_at
        self._started = started
        self._load_id = warehouse.next_load_id(connection)
        self._lines_read = 0
        self._duplicates = 0
        self._reasons: Counter[str] = Counter()

    def take(self, chunk_bytes: int, on_lines: Callable[[int], None]) -> None:
        source = lines.open_source(self._file)
        for chunk in lines.read_chunks(source, chunk_bytes):
            self._take_chunk(chunk)
            on_lines(len(chunk.lines))

    def finish(self, file_sha256: str) -> Load:
        conflicts = self._reasons.pop("event_id_conflict", 0)
        rejected = sum(self._reasons.values())
        accepted = self._lines_read - self._duplicates - conflicts - rejected
        seconds = time.perf_counter() - self._started
        warehouse.record_load(
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
        )
        return Load(
            str(self._file),
            load_id=self._load_id,
            lines_read=self._lines_read,
            accepted=accepted,
            duplicate=self._duplicates,
            conflict=conflicts,
            rejected=rejected,
            rejected_by_reason=dict(sorted(self._reasons.items())),
            seconds=seconds,
        )

    def _take_chunk(self, chunk: Chunk) -> None:
        self._stage(chunk)
        blank = self._examine_unclean(chunk)
        self._lines_read += len(chunk.lines) - blank
        self._set_repeated_aside()
        self._connection.execute(
            """
            insert into raw.lms_event by name
            select
                * exclude (is_clean),
                $received_at::timestamp as received_at,
                $load_id as load_id,
                $file as file
            from staged
            where
                is_clean
                and line_number not in (select line_number from repeated)
            """,
            {
                "received_at": self._received_at,
                "load_id": self._load_id,
                "file": str(self._file),
            },
        )

    def _stage(self, chunk: Chunk) -> None:
        count = len(chunk.lines)
        numbers = np.arange(chunk.first_line_number, chunk.first_line_number + count)
        batch = pa.RecordBatch.from_arrays(
            [
                pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(numbers)]),
                chunk.lines,
            ],
            ["line_number", "line"],
        )
        self._connection.register("chunk", _ArrowStream(batch))
        self._connection.execute(
            f"create or replace temp table staged as {validation.read_lines_sql()}",
            {"received_at": self._received_at},
        )

    def _examine_unclean(self, chunk: Chunk) -> int:
        """Decides about each line not surely valid; returns how many are blank."""
        blank = 0
        events: list[tuple[int, str, Event]] = []
        dead: list[tuple[int, BadLine, str | None]] = []
        unclean = self._connection.execute(
            "select line_number from staged where not is_clean order by line_number"
        ).fetchall()
        for (line_number,) in unclean:
            line = chunk.lines[line_number - chunk.first_line_number].as_py()
            if line_number in chunk.bad_lines:
                dead.append((line_number, chunk.bad_lines[line_number], None))
            elif not line.strip(" \t\r\n"):
                blank += 1
            else:
                result = validation.examine(line, self._received_at)
                if isinstance(result, Event):
                    events.append((line_number, line, result))
                else:
                    dead.append((line_number, _dead(line, result), None))
        self._add_to_staged(events)
        self._bury(dead)
        return blank

    def _add_to_staged(self, events: list[tuple[int, str, Event]]) -> None:
        """Valid lines that the bulk check left to the exact one."""
        if not events:
            return
        columns = {
            "line_number": [number for number, _, _ in events],
            "line": [line for _, line, _ in events],
            **{
                name: [getattr(event, name) for _, _, event in events]
                for name in Event.__dataclass_fields__
            },
        }
        values = ", ".join(f"unnest(${name}) as {name}" for name in columns)
        self._connection.execute(
            "delete from staged where line_number in (select unnest($line_number))",
            {"line_number": columns["line_number"]},
        )
        self._connection.execute(
            f"""
            insert into staged by name
            select
                *,
                coalesce(try_cast(event_id as uuid), md5_number(event_id)::uuid)
                    as event_key,
                true as is_clean
            from (select {values})
            """,
            columns,
        )

    def _set_repeated_aside(self) -> None:
        """Finds the lines whose `event_id` is known, in the history or in this chunk.

        The keys of the chunk are looked up in the whole history (which has the earlier
        chunks of this load, too): no index, no time window.
        """
        self._connection.execute(
            """
            create or replace temp table known as
            select event_id, line
            from raw.lms_event
            where event_key in (select event_key from staged where is_clean)
            """
        )
        self._connection.execute(
            """
            create or replace temp table repeated as
            with

            several as (

                select event_key
                from staged
                where is_clean
                group by event_key
                having count(*) > 1

            ),

            first_in_chunk as (

                select event_id, line_number, line
                from staged
                where is_clean and event_key in (select event_key from several)
                qualify row_number() over (
                    partition by event_id order by line_number
                ) = 1

            )

            select
                staged.line_number,
                staged.event_id,
                staged.line,
                coalesce(known.line, first_in_chunk.line) as first_line
            from staged
            left join known using (event_id)
            left join first_in_chunk using (event_id)
            where
                staged.is_clean
                and (
                    known.event_id is not null
                    or first_in_chunk.line_number < staged.line_number
                )
            """
        )
        [[self_evident]] = self._connection.execute(
            "select count(*) from repeated where line = first_line"
        ).fetchall()
        self._duplicates += self_evident
        dead: list[tuple[int, BadLine, str | None]] = []
        for line_number, event_id, line, first_line in self._connection.execute(
            """
            select line_number, event_id, line, first_line
            from repeated
            where line != first_line
            order by line_number
            """
        ).fetchall():
            if validation.same_content(first_line, line):
                self._duplicates += 1
            else:
                rejection = Rejection(
                    "event_id_conflict", "event_id", "known with other content"
                )
                dead.append((line_number, _dead(line, rejection), event_id))
        self._bury(dead)

    def _bury(self, dead: list[tuple[int, BadLine, str | None]]) -> None:
        if not dead:
            return
        self._reasons.update(bad.rejection.reason for _, bad, _ in dead)
        self._connection.execute(
            """
            insert into raw.dead_letter by name
            select
                unnest($line_number) as line_number,
                unnest($reason) as reason,
                unnest($field) as field,
                unnest($detail) as detail,
                unnest($event_id) as event_id,
                unnest($line) as line,
                unnest($line_bytes) as line_bytes,
                unnest($line_sha256) as line_sha256,
                $load_id as load_id,
                $file as file,
                $first_seen::timestamp as first_seen,
                1 as attempts
            """,
            {
                "line_number": [number for number, _, _ in dead],
                "reason": [bad.rejection.reason for _, bad, _ in dead],
                "field": [bad.rejection.field for _, bad, _ in dead],
                "detail": [bad.rejection.detail for _, bad, _ in dead],
                "event_id": [event_id for _, _, event_id in dead],
                "line": [bad.content for _, bad, _ in dead],
                "line_bytes": [bad.size for _, bad, _ in dead],
                "line_sha256": [bad.sha256 for _, bad, _ in dead],
                "load_id": self._load_id,
                "file": str(self._file),
                "first_seen": self._received_at,
            },
        )


def _dead(line: str, rejection: Rejection) -> BadLine:
    content = line.encode()
    return BadLine(content, len(content), lines.sha256_hex(content), rejection)


class _ArrowStream:
    """Hands a batch to DuckDB as several, without importing pandas (1.1 s)."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self._batch), _BATCH_LINES):
            yield self._batch.slice(start, _BATCH_LINES)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self._batch.schema, self._batches())
        return reader.__arrow_c_stream__(requested_schema)
