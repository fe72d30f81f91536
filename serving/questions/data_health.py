"""Whether what is shown can be trusted: loads, dead letters, lag and checks.

All of it is about the warehouse as a whole: who reads some courses only, reads none of
it.
"""

import contextlib
import functools
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError
from ingest.store import last_runs
from serving.reader import Reader, Row, Snapshot

# What mends a dead letter, by the reason that it has.
REPAIRS = {
    "event_id_conflict": "the first event stays: discard it, or send the event again "
    "under an id of its own",
    "unknown_contract": "add the contract, or mend the sender, then retry",
    "bad_timestamp": "mend the sender's clock or format; then export the lines, mend "
    "them, land them again",
}
REPAIR = "export the lines, mend them, land them again; or discard them"


def _is_whole(reader: Reader) -> None:
    if reader.scope.courses is not None:
        raise WarehouseError("data health is for those who may see every course")


def loads(reader: Reader, *, limit: int = 50, offset: int = 0) -> list[Row]:
    """Newest first, with what became of every line."""
    _is_whole(reader)
    return reader.rows(
        f"""
        select *, count(*) over () as total from monitoring.v_load_outcome
        order by load_id desc
        limit {limit} offset {offset}
        """
    )


def totals(reader: Reader) -> Row:
    """Lines of all event files by outcome."""
    _is_whole(reader)
    return reader.row(
        """
        select
            cast(coalesce(sum(lines_read), 0) as bigint) as lines_read,
            cast(coalesce(sum(accepted), 0) as bigint) as accepted,
            cast(coalesce(sum(duplicate), 0) as bigint) as duplicate,
            cast(coalesce(sum(conflict), 0) as bigint) as conflict,
            cast(coalesce(sum(rejected), 0) as bigint) as rejected,
            cast(coalesce(sum(erased), 0) as bigint) as erased,
            cast(coalesce(sum(lines_unaccounted), 0) as bigint) as lines_unaccounted
        from monitoring.v_load_outcome
        where kind = 'events'
        """
    )


def dead_letters(reader: Reader) -> list[Row]:
    """By reason and field, with the way to repair them."""
    _is_whole(reader)
    rows = reader.rows(
        """
        select * from monitoring.v_dead_letter_summary
        order by dead_letter_count desc, reason, field
        """
    )
    return [{**row, "repair": REPAIRS.get(row["reason"], REPAIR)} for row in rows]


def letters(
    reader: Reader, reason: str, field: str | None, *, limit: int = 100
) -> list[Row]:
    """The dead letters of one reason, newest first: where each line is, and its id."""
    _is_whole(reader)
    reader.needs_names()
    return reader.rows(
        f"""
        select
            load_id || ':' || line_number as letter, event_id, file, line_number,
            detail, first_seen, attempts
        from raw.dead_letter
        where reason = $reason and field is not distinct from $field
        order by load_id desc, line_number desc
        limit {limit}
        """,
        reason=reason,
        field=field,
    )


def snapshots(reader: Reader, path: Path) -> list[Row]:
    """The published files that readers may have open, newest first; `path` leads to the
    newest. `bytes` are without the events, which they share."""
    _is_whole(reader)
    newest = path.resolve()
    files = {newest, *path.with_name(path.stem).glob("snapshot-*.duckdb")}
    rows = []
    for file in sorted(files, reverse=True):
        row: Row = {"file": file.name, "load_id": None, "published_at": None}
        row["state"] = "what readers get" if file == newest else "kept"
        try:
            stat = file.stat()
            row["bytes"] = stat.st_size
            row["load_id"], row["published_at"] = _published(file, stat.st_mtime_ns)
        except (WarehouseError, duckdb.Error, OSError):
            if not file.exists():
                continue  # a publication took it away in the meantime
            row["state"] = "damaged: `warehouse reconcile --repair` publishes again"
        rows.append(row)
    return rows


@functools.lru_cache(maxsize=8)
def _published(file: Path, _changed_at: int) -> tuple[int, datetime]:
    """The load that a snapshot stands at, and when it was published: opening the three
    takes longer than the rest of the page."""
    with contextlib.closing(Snapshot.opened(file)) as snapshot:
        return snapshot.load_id, snapshot.published_at


def runs(reader: Reader, warehouse: Path) -> list[Row]:
    """How the last run of each kind ended, newest first: as it was noted beside the
    warehouse, which is not opened. None where the warehouse is elsewhere."""
    _is_whole(reader)
    noted = last_runs.read(warehouse)
    return [
        {"kind": kind, "ended_at": run.ended_at, "outcome": run.outcome}
        for kind, run in sorted(
            noted.items(), key=lambda item: item[1].ended_at, reverse=True
        )
    ]


def lag(reader: Reader) -> list[Row]:
    """How far each model is behind what was landed when the snapshot was made."""
    _is_whole(reader)
    return reader.rows(
        """
        select
            lag.model, lag.load_id, lag.consumed_at, lag.loads_behind,
            lag.events_behind, checked.load_id as checked_load_id
        from bookkeeping.model_lag as lag
        left join bookkeeping.checked_load as checked on lag.model = checked.model
        order by lag.model
        """
    )
