"""What becomes of a batch of lines: accepted, duplicate, conflict, rejected, erased.

Files that land and dead letters that are retried go through here, and nothing else
decides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import msgspec

from ingest.contracts import validation
from ingest.contracts.validation import Event, Rejection
from ingest.landing import lines, tally
from ingest.landing.lines import BadLine, Chunk
from ingest.store import tombstones

_BATCH_LINES = 20_480

# The reason of a line whose `event_id` is known with other content.
CONFLICT = "event_id_conflict"


@dataclass(frozen=True)
class Outcomes:
    """What becomes of a chunk's lines, in temp tables and in numbers.

    `accepted` has the columns of `raw.lms_event` that a line itself gives; `dead` has
    the lines that are not accepted, with the columns of `raw.dead_letter` that are
    about them; `erased_line` the numbers of those of an erased learner: nothing of them
    may be kept.
    """

    blank: int
    duplicate: int
    erased: int


def classify(
    connection: duckdb.DuckDBPyConnection,
    table: "ChunkTable",
    chunk: Chunk,
    received_at: datetime,
    received_at_of: Callable[[int], datetime] | None = None,
) -> Outcomes:
    """Classifies the lines by their contracts and the events in `raw.lms_event`.

    Writes nothing but temp tables. `table` is the connection's, made before its
    transaction. Where lines were received at several times,
    `received_at` is the earliest of them and `received_at_of` gives that of a line
    number.
    """
    table.show(chunk)
    connection.execute(
        f"create or replace temp table staged as {validation.read_lines_sql()}",
        {"received_at": received_at},
    )
    connection.execute(_TABLES)
    buried = tombstones.read(connection)
    unclean = connection.execute(
        "select line_number from staged where not is_clean order by line_number"
    ).fetchnumpy()["line_number"]
    forms = tally.Mapping()
    blank = 0
    # In batches: what is known of a line in Python takes up a kilobyte, and a chunk
    # may have half a million that are not valid.
    for start in range(0, len(unclean), _BATCH_LINES):
        blank += _examine(
            connection,
            chunk,
            [int(number) for number in unclean[start : start + _BATCH_LINES]],
            forms,
            buried,
            received_at_of or (lambda _line_number: received_at),
        )
    if buried:
        _refuse_erased(connection, buried)
    duplicate = _find_repeats(connection)
    connection.execute(
        """
        create or replace temp view accepted as
        select * exclude (is_clean)
        from staged
        where is_clean and line_number not in (select line_number from repeated)
        """
    )
    [[erased]] = connection.execute("select count(*) from erased_line").fetchall()
    return Outcomes(blank, duplicate, int(erased))


_TABLES = """
    create or replace temp table dead (
        line_number bigint,
        reason varchar,
        field varchar,
        detail varchar,
        event_id varchar,
        faults varchar,
        line blob,
        line_bytes bigint,
        line_sha256 varchar
    );
    create or replace temp table erased_line (line_number bigint)
"""


def _examine(
    connection: duckdb.DuckDBPyConnection,
    chunk: Chunk,
    line_numbers: list[int],
    forms: tally.Mapping,
    buried: tombstones.Tombstones | None,
    received_at_of: Callable[[int], datetime],
) -> int:
    """Decides about lines that are not surely valid; returns how many are blank."""
    blank = 0
    events: list[tuple[int, str, Event]] = []
    dead: list[tuple[int, BadLine]] = []
    for line_number in line_numbers:
        if line_number in chunk.bad_lines:
            dead.append((line_number, chunk.bad_lines[line_number]))
            continue
        line = chunk.lines[line_number - chunk.first_line_number].as_py()
        if not line.strip(" \t\r\n"):
            blank += 1
            continue
        result: str | Event | Rejection = line
        if tally.is_submission(line):
            result = forms.event_of(line)
        if isinstance(result, str):
            event_line = result
            result = validation.examine(event_line, received_at_of(line_number))
        if isinstance(result, Event):
            events.append((line_number, event_line, result))
        else:
            dead.append((line_number, _bad(line, result)))
    unreadable = _unreadable(connection, events)
    for line_number, line, _ in events:
        if line_number in unreadable:
            detail = "DuckDB does not read it as JSON"
            dead.append(
                (line_number, _bad(line, Rejection("broken_json", None, detail)))
            )
    events = [event for event in events if event[0] not in unreadable]
    _add_to_staged(connection, events)
    if buried:
        erased = [
            line_number
            for line_number, bad in dead
            if buried.erased(tombstones.learners_of(bad.content))
        ]
        _insert(connection, "erased_line", {"line_number": erased})
        dead = [each for each in dead if each[0] not in set(erased)]
    _add_dead(connection, dead)
    return blank


def _add_dead(
    connection: duckdb.DuckDBPyConnection, dead: list[tuple[int, BadLine]]
) -> None:
    rejections = [bad.rejection for _, bad in dead]
    _insert(
        connection,
        "dead",
        {
            "line_number": [line_number for line_number, _ in dead],
            "reason": [each.reason for each in rejections],
            "field": [each.field for each in rejections],
            "detail": [each.detail for each in rejections],
            "event_id": [_event_id_of(bad) for _, bad in dead],
            "faults": [
                msgspec.json.encode(each.faults()).decode() for each in rejections
            ],
            "line": [bad.content for _, bad in dead],
            "line_bytes": [bad.size for _, bad in dead],
            "line_sha256": [bad.sha256 for _, bad in dead],
        },
    )


def _event_id_of(bad: BadLine) -> str | None:
    """The event id wherever the line names one, in what is no JSON too."""
    return bad.rejection.event_id or validation.event_id_in(
        bad.content.decode(errors="replace")
    )


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, list[Any]]
) -> None:
    if any(columns.values()):
        values = ", ".join(f"unnest(${name}) as {name}" for name in columns)
        connection.execute(f"insert into {table} by name select {values}", columns)


def _unreadable(
    connection: duckdb.DuckDBPyConnection, events: list[tuple[int, str, Event]]
) -> set[int]:
    """Valid lines that DuckDB would fail on, and the whole load with it.

    None is known; if its reader ever differs from Python's, a line is lost to the dead
    letters and not a file.
    """
    rows = connection.execute(
        """
        select line_number
        from (select unnest($numbers) as line_number, unnest($lines) as line)
        where not json_valid(line)
        """,
        {
            "numbers": [number for number, _, _ in events],
            "lines": [line for _, line, _ in events],
        },
    ).fetchall()
    return {line_number for (line_number,) in rows}


def _add_to_staged(
    connection: duckdb.DuckDBPyConnection, events: list[tuple[int, str, Event]]
) -> None:
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
    connection.execute(
        "delete from staged where line_number in (select unnest($line_number))",
        {"line_number": columns["line_number"]},
    )
    connection.execute(
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


def _refuse_erased(
    connection: duckdb.DuckDBPyConnection, buried: tombstones.Tombstones
) -> None:
    """Takes the lines of erased learners out of `staged`.

    Ids are hashed only once someone was erased: each learner of the chunk once, 1.5 µs
    each.
    """
    learners = connection.execute(
        "select distinct user_id from staged where is_clean"
    ).fetchall()
    if users := buried.erased(user_id for (user_id,) in learners):
        connection.execute(
            """
            insert into erased_line
            select line_number
            from staged
            where is_clean and user_id in (select unnest($users))
            """,
            {"users": users},
        )
        connection.execute("delete from staged where line_number in (from erased_line)")


def _find_repeats(connection: duckdb.DuckDBPyConnection) -> int:
    """Finds the lines whose `event_id` is known, in the history or in this chunk.

    The keys of the chunk are looked up in the whole history (which has the earlier
    chunks of this load, too): no index, no time window. The lines are left in the temp
    table `repeated`. Returns how many are duplicates; the conflicts are dead.
    """
    # Columns that few rows are read of are fetched by row afterwards.
    connection.execute(
        """
        create or replace temp table known as
        select
            rowid as row_id,
            event_key
        from raw.lms_event
        where event_key in (select event_key from staged where is_clean)
        """
    )
    connection.execute(
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

            select event_id, min(line_number) as line_number
            from staged
            where is_clean and event_key in (select event_key from several)
            group by event_id

        ),

        known_lines as (

            select events.event_id, events.line
            from raw.lms_event as events
            where events.rowid in (select row_id from known)

        )

        select
            staged.line_number,
            staged.event_id,
            first_in_chunk.line_number as first_line_number,
            known_lines.line as known_line
        from staged
        left join first_in_chunk using (event_id)
        left join known_lines using (event_id)
        where
            staged.is_clean
            and (
                known_lines.event_id is not null
                or first_in_chunk.line_number < staged.line_number
            )
        """
    )
    connection.execute(
        """
        create or replace temp table compared as
        select
            repeated.line_number,
            repeated.event_id,
            staged.line,
            coalesce(repeated.known_line, first.line) as first_line
        from staged
        inner join repeated using (line_number)
        left join (
            select line_number, line
            from staged
            where line_number in (select first_line_number from repeated)
        ) as first on repeated.first_line_number = first.line_number
        """
    )
    [[self_evident]] = connection.execute(
        "select count(*) from compared where line = first_line"
    ).fetchall()
    duplicate = int(self_evident)
    last = -1
    while differing := connection.execute(
        """
        select line_number, event_id, line, first_line
        from compared
        where line != first_line and line_number > $1
        order by line_number
        limit $2
        """,
        [last, _BATCH_LINES],
    ).fetchall():
        conflicts = []
        for line_number, event_id, line, first_line in differing:
            if validation.same_content(first_line, line):
                duplicate += 1
            else:
                conflict = Rejection(
                    CONFLICT, "event_id", "known with other content", event_id=event_id
                )
                conflicts.append((line_number, _bad(line, conflict)))
        _add_dead(connection, conflicts)
        last = differing[-1][0]
    return duplicate


def _bad(line: str, rejection: Rejection) -> BadLine:
    content = line.encode()
    return BadLine(content, len(content), lines.sha256_hex(content), rejection)


class ChunkTable:
    """The table `chunk` of a connection: the lines that are being classified.

    It is registered once, with what it shows changing: DuckDB keeps all that a
    transaction registers to its end, and a load of 10 million lines with it. Without
    importing pandas (1.1 s), which registering a table of Arrow's does.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        import pyarrow as pa

        self._schema = pa.schema([("line_number", pa.int64()), ("line", pa.string())])
        self._batches: list[pa.RecordBatch] = []
        connection.register("chunk", self)

    def show(self, chunk: Chunk) -> None:
        import numpy as np
        import pyarrow as pa

        count = len(chunk.lines)
        numbers = np.arange(chunk.first_line_number, chunk.first_line_number + count)
        batch = pa.RecordBatch.from_arrays(
            [
                pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(numbers)]),
                chunk.lines,
            ],
            schema=self._schema,
        )
        # Several, since one is read by one thread.
        self._batches = [
            batch.slice(start, _BATCH_LINES) for start in range(0, count, _BATCH_LINES)
        ]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_batches(self._schema, self._batches)
        return reader.__arrow_c_stream__(requested_schema)
