"""What is in the warehouse, what readers have of it, and how the last runs ended."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError
from ingest.landing import zone
from ingest.settings import Settings
from ingest.store import database, last_runs
from ingest.store.last_runs import Run
from serving import published


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
class Published:
    """What readers have: the newest load in it, and how long ago that was published."""

    load_id: int
    published_at: datetime
    age_sec: float


@dataclass(frozen=True)
class Unread:
    """Files of the landing zone that no load has, and the one that waits longest."""

    files: int
    oldest: str
    changed_at: datetime
    age_sec: float


@dataclass(frozen=True)
class Status:
    """Times are naive, in UTC; `outcomes` are lines, by what became of them.

    `published` is None where nothing was, `unread` where nothing waits; `last_runs` are
    by kind: `refresh`, `check` and `reconcile`.
    """

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
    published: Published | None
    last_runs: dict[last_runs.Kind, Run]
    unread: Unread | None


def read_status(settings: Settings) -> Status:
    """Reads the warehouse at one moment. Raises `WarehouseError` if there is none."""
    warehouse_path, now = settings.warehouse, database.utc_now()
    unread = _unread(settings.landing, warehouse_path, now)
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
            published=_published(warehouse_path, now),
            last_runs=last_runs.read(warehouse_path),
            unread=unread,
        )


def _published(warehouse_path: Path, now: datetime) -> Published | None:
    with (
        contextlib.suppress(WarehouseError, duckdb.Error),
        published.opened(warehouse_path) as snapshot,
    ):
        [[load_id, published_at]] = snapshot.execute(
            "select load_id, published_at from published.snapshot"
        ).fetchall()
        return Published(load_id, published_at, (now - published_at).total_seconds())
    return None


def _unread(landing: Path, warehouse_path: Path, now: datetime) -> Unread | None:
    waiting = zone.pending(zone.files_in(landing), warehouse_path)
    if not waiting:
        return None
    changed = {
        file: datetime.fromtimestamp(file.stat().st_mtime, UTC).replace(tzinfo=None)
        for file in waiting
    }
    oldest = min(changed, key=changed.__getitem__)
    age_sec = (now - changed[oldest]).total_seconds()
    return Unread(len(waiting), str(oldest), changed[oldest], age_sec)


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
