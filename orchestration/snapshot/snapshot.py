"""What readers open: a consistent copy of what is derived, beside the warehouse.

    published/
      warehouse.duckdb               the newest snapshot: a link put in place by rename;
                                     opened read-only, by as many as like
      warehouse/snapshot-….duckdb    the last three
      warehouse/events-…/2026-10/    raw events by month (UTC): a Parquet file for each
                                     month of each publication, never rewritten

A snapshot has everything that dbt made, under the names that it has in the warehouse,
and `raw`: the loads, the catalogue, dead letters without their lines, and the events as
a view of the Parquet files. `published.snapshot` says when it was made and at which
load it stands: it has nothing of a later one. Readers of an older one keep it.

The events start over in a folder of their own when the snapshot before is of another
warehouse, or of one from which no learner had been erased yet.
"""

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from ingest import progress
from ingest.errors import WarehouseError, first_line
from ingest.settings import Settings
from ingest.store import database, last_runs
from ingest.store.files import lock, rename_durably, sync_folder
from orchestration.derive.bookkeeping import state_fingerprint
from orchestration.snapshot.content import (
    BEFORE,
    EVENT_COLUMNS,
    LIVE,
    SnapshotInfo,
    unlike_the_warehouse,
    write,
)
from serving import published

SNAPSHOTS_KEPT = 3

# A learner's events stand together in each file, so that whoever asks for a learner
# reads one of these groups of rows in it, and not all.
_ROWS_OF_A_GROUP = 40_960


@dataclass(frozen=True)
class Snapshot:
    """One published state.

    `load_id` is the newest load in it, `published_at` naive and in UTC. `is_new` is
    false when nothing had changed since; `events` are those appended by it, `files` the
    Parquet files that it reads them all from, and `bytes` its own size without them.
    """

    path: str
    load_id: int
    published_at: datetime
    is_new: bool
    events: int
    files: int
    bytes: int


@dataclass(frozen=True)
class _Folder:
    """The places of one warehouse's snapshots."""

    current: Path
    own: Path

    @property
    def spill(self) -> Path:
        """What does not fit into memory while a snapshot is written."""
        return self.own / ".spill"

    @classmethod
    def of(cls, warehouse_path: Path) -> "_Folder":
        current = published.snapshot_path(warehouse_path)
        return cls(current, current.with_name(warehouse_path.stem))

    def snapshots(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.own.glob("snapshot-*.duckdb"))

    def generations(self) -> list[Path]:
        return sorted(self.own.glob("events-*"))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for its turn; what a killed publication left unfinished goes."""
        self.own.mkdir(parents=True, exist_ok=True)
        with lock(self.own / "lock"):
            shutil.rmtree(self.spill, ignore_errors=True)
            for unfinished in self.own.rglob(".*.unfinished*"):
                unfinished.unlink(missing_ok=True)
            yield


def publish(warehouse_path: Path, *, start_over: bool = False) -> Snapshot:
    """Publishes what is derived, if it differs from the newest snapshot.

    With `start_over` it always does, and nothing of earlier ones is kept, events
    neither: for when a learner was erased. Interrupted anywhere, the snapshot before
    stays, and the next call ends where an unbroken one does. Raises `WarehouseError`.
    """
    database.must_exist(warehouse_path)
    folder = _Folder.of(warehouse_path)
    try:
        # A damaged snapshot is written anew: what else is damaged is the warehouse.
        with (
            last_runs.noting_a_crash(warehouse_path, "publication"),
            progress.step("publishing"),
            database.damage_is_said(warehouse_path),
            folder.alone(),
            _attached(warehouse_path, folder) as connection,
        ):
            made = _publish(connection, folder, start_over)
    except (duckdb.Error, OSError) as error:
        raise WarehouseError(
            f"{folder.current}: cannot be published ({first_line(error)}); "
            "readers keep the snapshot before"
        ) from error
    if made.is_new:
        run = last_runs.Run(database.utc_now(), succeeded=True)
        last_runs.note(warehouse_path, "publication", run)
    return made


def publish_again(warehouse_path: Path, *, start_over: bool = False) -> None:
    """Publishes after something else than a refresh changed what is derived; does
    nothing where nothing was ever published."""
    if _Folder.of(warehouse_path).own.exists():
        publish(warehouse_path, start_over=start_over)


def problems(warehouse_path: Path) -> list[str]:
    """What readers of the newest snapshot would get wrong: it is damaged, or has other
    rows than the warehouse. None where nothing was published, or where the next
    publication starts over by itself. Raises `WarehouseError`."""
    folder = _Folder.of(warehouse_path)
    if not folder.current.is_symlink():
        return []
    with (
        database.damage_is_said(warehouse_path),
        folder.alone(),
        _attached(warehouse_path, folder) as connection,
    ):
        try:
            files = connection.execute(
                f"select file from {BEFORE}.published.event_file order by all"
            ).fetchall()
        except duckdb.Error as error:
            return [f"{folder.current}: cannot be read ({first_line(error)})"]
        lost = [file for (file,) in files if not (folder.own / file).exists()]
        if lost:
            return [f"{folder.own / file}: is gone" for file in lost]
        info = _continued(connection, folder, _derived_through(connection))
        if info is None:
            return []
        is_current = info.state == state_fingerprint(connection, LIVE)
        return list(unlike_the_warehouse(connection, info, is_current=is_current))


@contextlib.contextmanager
def _attached(
    warehouse_path: Path, folder: _Folder
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse as `_live_` and, if there is one, its snapshot as `_before_`."""
    with contextlib.closing(duckdb.connect()) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("set enable_progress_bar = false")
        # As in dbt's profile.
        memory = Settings.from_environment().memory_limit
        connection.execute("set memory_limit = $1", [memory])
        connection.execute("set temp_directory = $1", [str(folder.spill)])
        # Every row says where it is from: their order in a table says nothing.
        connection.execute("set preserve_insertion_order = false")
        database.wait_for_lock(
            warehouse_path, lambda: database.attach(connection, warehouse_path, LIVE)
        )
        if folder.current.exists():
            # One that cannot be read is replaced.
            with contextlib.suppress(duckdb.Error):
                database.attach(connection, folder.current.resolve(), BEFORE)
        yield connection


def _publish(
    connection: duckdb.DuckDBPyConnection, folder: _Folder, start_over: bool
) -> Snapshot:
    if start_over:
        # What a reader that was killed had no memory for.
        for spilled in (
            *folder.current.parent.glob(f"{glob.escape(folder.current.name)}.*tmp"),
            *folder.own.glob("*.duckdb.*tmp"),
        ):
            shutil.rmtree(spilled, ignore_errors=True)
    load_id = _derived_through(connection)
    state = state_fingerprint(connection, LIVE)
    before = None if start_over else _continued(connection, folder, load_id)
    if before is not None and before.state == state:
        return _described(folder, before.load_id, before.published_at, before.files)
    published_at = database.utc_now()
    if before is None:
        names = [path.name for path in folder.generations()]
        number = max((int(name.removeprefix("events-")) for name in names), default=0)
        generation = folder.own / f"events-{number + 1:04}"
        files: list[str] = []
        since = 0
    else:
        generation, files, since = before.generation, list(before.files), before.load_id
        # A publication that was killed left what no snapshot reads.
        for file in generation.rglob("*.parquet"):
            if str(file.relative_to(folder.own)) not in files:
                file.unlink()
    new_files, events = _append_events(connection, generation, since, load_id)
    files += new_files
    numbers = [int(path.stem.split("-")[1]) for path in folder.snapshots()]
    path = folder.own / f"snapshot-{max(numbers, default=0) + 1:08}.duckdb"
    unfinished = folder.own / f".{path.name}.unfinished"
    write(
        connection,
        unfinished,
        SnapshotInfo(load_id, published_at, state, generation, tuple(files)),
        (folder.current.resolve(), before.load_id) if before else None,
    )
    rename_durably(unfinished, path, read_only=True)
    link = folder.current.with_name(f".{folder.current.name}.unfinished")
    link.unlink(missing_ok=True)
    link.symlink_to(path.relative_to(folder.current.parent))
    os.replace(link, folder.current)
    sync_folder(folder.current.parent)
    _remove_old(folder, generation, keep=SNAPSHOTS_KEPT if before else 1)
    return _described(folder, load_id, published_at, files, events, is_new=True)


def _described(
    folder: _Folder,
    load_id: int,
    published_at: datetime,
    files: Sequence[str],
    events: int = 0,
    *,
    is_new: bool = False,
) -> Snapshot:
    return Snapshot(
        path=str(folder.current),
        load_id=load_id,
        published_at=published_at,
        is_new=is_new,
        events=events,
        files=len(files),
        bytes=folder.current.stat().st_size,
    )


def _derived_through(connection: duckdb.DuckDBPyConnection) -> int:
    """The load up to which every model has taken in all."""
    if not connection.execute(
        "from duckdb_tables() where database_name = $1 and schema_name = 'bookkeeping' "
        "and table_name = 'watermark'",
        [LIVE],
    ).fetchall():
        raise WarehouseError("nothing was derived yet; run `warehouse refresh`")
    [[load_id]] = connection.execute(
        f"select coalesce(min(load_id), 0) from {LIVE}.bookkeeping.watermark"
    ).fetchall()
    return int(load_id)


def _continued(
    connection: duckdb.DuckDBPyConnection, folder: _Folder, load_id: int
) -> SnapshotInfo | None:
    """The newest snapshot, if what was appended for it can be appended to."""
    try:
        rows = connection.execute(
            "select load_id, published_at, state, generation, tombstones "
            f"from {BEFORE}.published.snapshot where format = {published.FORMAT}"
        ).fetchall()
        files = connection.execute(
            f"select file from {BEFORE}.published.event_file order by all"
        ).fetchall()
        if not rows:
            return None  # a version with another format made it
        [[before_id, published_at, state, generation, tombstones]] = rows
        of_both = [
            connection.execute(
                f"""
                select md5(string_agg(
                    concat(load_id, ' ', file_sha256), ',' order by load_id
                ))
                from {database}.raw.load
                where load_id <= $1
                """,
                [before_id],
            ).fetchall()
            for database in (LIVE, BEFORE)
        ]
    except duckdb.Error:
        return None  # there is none, or another version made it
    [[now_erased]] = connection.execute(
        f"select count(*) from {LIVE}.raw.tombstone"
    ).fetchall()
    paths = tuple(file for (file,) in files)
    if (
        of_both[0] != of_both[1]
        or before_id > load_id
        or tombstones != now_erased
        or not all((folder.own / path).exists() for path in paths)
    ):
        return None
    return SnapshotInfo(before_id, published_at, state, folder.own / generation, paths)


def _append_events(
    connection: duckdb.DuckDBPyConnection, generation: Path, since: int, load_id: int
) -> tuple[list[str], int]:
    """Writes the events of the loads past `since`; the files, and how many they are."""
    new = f"from {LIVE}.raw.lms_event where load_id > {since} and load_id <= {load_id}"
    months = connection.execute(
        f"select date_trunc('month', occurred_at)::date as month, count(*) {new} "
        "group by month order by month"
    ).fetchall()
    files = []
    for month, _ in months:
        target = generation / f"{month:%Y-%m}" / f"load-{since + 1}-{load_id}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.unfinished")
        connection.execute(
            f"""
            copy (
                select {EVENT_COLUMNS} {new}
                and occurred_at >= date '{month}'
                and occurred_at < date '{month}' + interval 1 month
                order by user_id, occurred_at
            ) to {database.sql_path(unfinished)} (
                format parquet, compression zstd, row_group_size {_ROWS_OF_A_GROUP}
            )
            """
        )
        rename_durably(unfinished, target, read_only=True)
        files.append(str(target.relative_to(generation.parent)))
    return files, sum(count for _, count in months)


def _remove_old(folder: _Folder, generation: Path, *, keep: int) -> None:
    """Older snapshots, and events that no snapshot is left of.

    Whoever has a file open goes on reading it. What started over leaves nothing of
    before: it may be of an erased learner.
    """
    for path in folder.snapshots()[:-keep]:
        path.unlink(missing_ok=True)
    for events in folder.generations():
        if events != generation:
            shutil.rmtree(events)
