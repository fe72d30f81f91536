"""The outbox: every signal that was ever seen, in the order of publication.

It is three tables in the warehouse's file: `outbox.integration_event` has a row for
each signal, `outbox.batch` cuts them into batches for good, `outbox.watermark` says how
far each target is. What is enqueued never changes, whatever becomes of the signal.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError
from ingest.store import database, formats
from orchestration.outbox import integration_events
from orchestration.outbox.integration_events import Fact

SCHEMA = """
create schema if not exists outbox;

create table if not exists outbox.integration_event (
    sequence bigint not null,
    signal_id varchar not null,
    signal_type varchar not null,
    contract_version integer not null,
    user_id varchar not null,
    class_id varchar,
    course_id varchar,
    occurred_at timestamp not null
);

create table if not exists outbox.batch (
    first_sequence bigint not null,
    last_sequence bigint not null,
    enqueued_at timestamp not null,
    base_url varchar not null,
    completion_threshold double not null
);

create table if not exists outbox.watermark (
    target varchar not null,
    sequence bigint not null,
    moved_at timestamp,
    not_before timestamp,
    last_error varchar
);
"""


# Format 1 called its watermarks otherwise. Files without a number are of 1 or of 2.
_MIGRATIONS = {2: "alter table outbox.place rename to watermark"}


@contextlib.contextmanager
def opened(
    warehouse_path: Path, *, wait_sec: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, for writing, with the tables of the outbox in it."""
    with database.open_for_writing(warehouse_path, wait_sec=wait_sec) as connection:
        _carry_over(connection)
        yield connection


def _carry_over(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the outbox, or what an earlier version made one of today's."""
    number = formats.numbers(connection).get("outbox")
    if number == formats.FORMATS["outbox"]:
        return
    table = _watermark_table(connection)
    if table == "place":
        formats.carry_over(connection, "outbox", 1, _MIGRATIONS)
        return
    with database.transaction(connection):
        connection.execute(SCHEMA)
        formats.note(connection, "outbox", formats.FORMATS["outbox"])


def _watermark_table(connection: duckdb.DuckDBPyConnection) -> str | None:
    rows = connection.execute(
        "select table_name from duckdb_tables() where schema_name = 'outbox' "
        "and table_name in ('watermark', 'place') "
        "and database_name = current_database()"
    ).fetchall()
    return rows[0][0] if rows else None


def enqueue(warehouse_path: Path, *, base_url: str, batch_events: int) -> int:
    """Takes every signal that the outbox has not; their number.

    One transaction. The order is that of the moments; at one moment a step comes after
    its parts and a course after its steps. A signal that is found later goes to the
    end, whenever it happened. Raises `WarehouseError` when nothing is derived yet.
    """
    contracts = integration_events.newest()
    with opened(warehouse_path) as connection:
        [[derived]] = connection.execute(
            "select count(*) from information_schema.tables where table_schema = "
            "'signals' and table_name in ('lms_signal', 'signal_rule')"
        ).fetchall()
        if derived < 2:
            raise WarehouseError(
                f"{warehouse_path}: there are no signals yet; run `warehouse refresh`"
            )
        with database.transaction(connection):
            [[last]] = connection.execute(
                "select coalesce(max(last_sequence), 0) from outbox.batch"
            ).fetchall()
            connection.execute(
                """
                insert into outbox.integration_event
                select
                    $last + row_number() over (
                        order by
                            signals.occurred_at,
                            contracts.position,
                            signals.signal_id
                    ) as sequence,
                    signals.signal_id,
                    signals.type,
                    contracts.version,
                    signals.user_id,
                    signals.class_id,
                    signals.course_id,
                    signals.occurred_at
                from signals.lms_signal as signals
                inner join (
                    select
                        unnest($types) as type,
                        unnest($versions) as version,
                        unnest(range(len($types))) as position
                ) as contracts on signals.type = contracts.type
                anti join outbox.integration_event as known
                    on signals.signal_id = known.signal_id
                order by sequence
                """,
                {
                    "last": last,
                    "types": list(contracts),
                    "versions": [c.VERSION for c in contracts.values()],
                },
            )
            [[count, distinct]] = connection.execute(
                "select count(*), count(distinct signal_id) "
                "from outbox.integration_event where sequence > $last",
                {"last": last},
            ).fetchall()
            if not count:
                return 0
            if count != distinct:
                raise WarehouseError(
                    f"{warehouse_path}: signals.lms_signal has a signal_id twice; "
                    "nothing was published. See `warehouse check`, then `rebuild`"
                )
            connection.execute(
                """
                insert into outbox.batch
                select
                    min(sequence),
                    max(sequence),
                    $enqueued_at,
                    $base_url,
                    (
                        select completion_threshold
                        from signals.signal_rule
                        where type = 'VIDEO_COMPLETED'
                    )
                from outbox.integration_event
                where sequence > $last
                group by (sequence - $last - 1) // $batch_events
                order by 1
                """,
                {
                    "last": last,
                    "batch_events": batch_events,
                    "enqueued_at": database.utc_now(),
                    "base_url": base_url,
                },
            )
    return int(count)


@dataclass(frozen=True)
class Batch:
    """What is sent at once: the facts from `first` to `last`, by `sequence`.

    There are fewer facts than numbers where learners were erased, perhaps none.
    """

    first: int
    last: int
    facts: tuple[Fact, ...]


def next_batch(
    connection: duckdb.DuckDBPyConnection, watermark: int, largest: int | None
) -> Batch | None:
    """The batch that follows the watermark, or the first `largest` events of it."""
    batch = connection.execute(
        """
        select
            first_sequence,
            last_sequence
        from outbox.batch
        where last_sequence > $watermark
        order by first_sequence
        limit 1
        """,
        {"watermark": watermark},
    ).fetchone()
    if batch is None:
        return None
    first, last = batch
    if largest is not None:
        first = max(first, watermark + 1)
        last = min(last, first + largest - 1)
    rows = connection.execute(
        """
        select
            event.sequence,
            event.signal_id,
            event.signal_type,
            event.contract_version,
            event.user_id,
            event.class_id,
            event.course_id,
            event.occurred_at,
            batch.enqueued_at,
            batch.base_url,
            batch.completion_threshold
        from outbox.integration_event as event
        inner join outbox.batch as batch
            on event.sequence between batch.first_sequence and batch.last_sequence
        where
            event.sequence between $first and $last
            and $first between batch.first_sequence and batch.last_sequence
        order by event.sequence
        """,
        {"first": first, "last": last},
    ).fetchall()
    return Batch(first, last, tuple(Fact(*row) for row in rows))


@dataclass(frozen=True)
class Watermark:
    """How far a target is, and when it wants to be asked again."""

    sequence: int
    not_before: datetime | None


def watermark(connection: duckdb.DuckDBPyConnection, target: str) -> Watermark:
    row = connection.execute(
        "select sequence, not_before from outbox.watermark where target = $target",
        {"target": target},
    ).fetchone()
    return Watermark(*row) if row else Watermark(0, None)


def move_watermark(
    connection: duckdb.DuckDBPyConnection, target: str, sequence: int
) -> None:
    _write_watermark(
        connection, target, sequence, moved_at=database.utc_now(), error=None
    )


def note_failure(
    connection: duckdb.DuckDBPyConnection,
    target: str,
    error: str,
    not_before: datetime | None,
) -> None:
    """The watermark stays, and `not_before` is when the target may be asked again."""
    _write_watermark(connection, target, None, error=error, not_before=not_before)


def _write_watermark(
    connection: duckdb.DuckDBPyConnection,
    target: str,
    sequence: int | None,
    *,
    error: str | None,
    moved_at: datetime | None = None,
    not_before: datetime | None = None,
) -> None:
    with database.transaction(connection):
        connection.execute(
            "insert into outbox.watermark by name select $target as target, "
            "0 as sequence where not exists "
            "(from outbox.watermark where target = $target)",
            {"target": target},
        )
        connection.execute(
            """
            update outbox.watermark
            set
                sequence = coalesce($sequence, sequence),
                moved_at = coalesce($moved_at, moved_at),
                not_before = $not_before,
                last_error = $error
            where target = $target
            """,
            {
                "target": target,
                "sequence": sequence,
                "moved_at": moved_at,
                "not_before": not_before,
                "error": error,
            },
        )


def behind(connection: duckdb.DuckDBPyConnection, sequence: int) -> int:
    """How many events come after it."""
    [[count]] = connection.execute(
        "select count(*) from outbox.integration_event where sequence > $sequence",
        {"sequence": sequence},
    ).fetchall()
    return int(count)


def targets(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    """The keys of all targets that ever got, or refused, a batch."""
    table = _watermark_table(connection)
    if table is None:
        return frozenset()
    rows = connection.execute(f"select target from outbox.{table}").fetchall()
    return frozenset(target for (target,) in rows)
