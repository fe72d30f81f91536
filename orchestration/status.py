"""What is in the warehouse and how far behind its models are."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.store import database


@dataclass(frozen=True)
class ModelPlace:
    """What one incremental model has taken in.

    `behind_loads` is the number of loads past its watermark, `behind_events` the
    accepted events in them (of all types).
    """

    model: str
    load_id: int
    consumed_at: datetime
    behind_loads: int
    behind_events: int


@dataclass(frozen=True)
class Status:
    """Times are naive, in UTC; `outcomes` are lines, by what became of them."""

    warehouse: str
    bytes: int
    loads: int
    newest_load_id: int | None
    newest_load_at: datetime | None
    events: int
    newest_event_at: datetime | None
    outcomes: dict[str, int]
    dead_letters: dict[str, int]
    snapshots: int
    models: tuple[ModelPlace, ...]


def read_status(warehouse_path: Path) -> Status:
    """Reads everything at one moment. Raises `WarehouseError` if there is none."""
    with database.open_for_reading(warehouse_path) as connection:
        loads = connection.execute(
            """
            select
                count(*) filter (kind = 'events'),
                max(load_id),
                max(received_at),
                coalesce(sum(lines_read) filter (kind = 'events'), 0)::bigint,
                coalesce(sum(accepted) filter (kind = 'events'), 0)::bigint,
                coalesce(sum(duplicate) filter (kind = 'events'), 0)::bigint,
                coalesce(sum(conflict) filter (kind = 'events'), 0)::bigint,
                coalesce(sum(rejected) filter (kind = 'events'), 0)::bigint,
                coalesce(sum(erased) filter (kind = 'events'), 0)::bigint,
                count(*) filter (kind = 'catalogue')
            from raw.load
            """
        ).fetchall()[0]
        events, newest_event_at = connection.execute(
            "select count(*), max(occurred_at) from raw.lms_event"
        ).fetchall()[0]
        dead_letters = connection.execute(
            "select reason, count(*) from raw.dead_letter group by all order by all"
        ).fetchall()
        return Status(
            warehouse=str(warehouse_path),
            bytes=warehouse_path.stat().st_size,
            loads=loads[0],
            newest_load_id=loads[1],
            newest_load_at=loads[2],
            events=events,
            newest_event_at=newest_event_at,
            outcomes=dict(
                zip(
                    (
                        *("lines_read", "accepted", "duplicate", "conflict"),
                        *("rejected", "erased"),
                    ),
                    loads[3:9],
                    strict=True,
                )
            ),
            dead_letters=dict(dead_letters),
            snapshots=loads[9],
            models=_model_places(connection),
        )


def _model_places(connection: duckdb.DuckDBPyConnection) -> tuple[ModelPlace, ...]:
    [[derived]] = connection.execute(
        """
        select count(*)
        from duckdb_views()
        where schema_name = 'bookkeeping' and view_name = 'model_lag'
        """
    ).fetchall()
    if not derived:
        return ()
    rows = connection.execute(
        """
        select model, load_id, consumed_at, loads_behind, events_behind
        from bookkeeping.model_lag
        order by model
        """
    ).fetchall()
    return tuple(ModelPlace(*row) for row in rows)
