"""Backing up: what cannot be derived, by load, verified after it was written.

`raw` and `outbox` are backed up; all else is derived from them. A table that grows adds
a file with its new rows, another one is written whole, or not at all if it is as in the
backup before. An erasure starts the folder over: the backup is written whole, and those
before, which have the learner, go.
"""

import contextlib
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb

from ingest import progress
from ingest.errors import WarehouseDamaged, WarehouseError, first_line
from ingest.settings import Settings
from ingest.store import database, journal, last_runs
from ingest.store.database import sql_name, sql_path
from ingest.store.files import FOLDER_MODE, hidden, rename_durably, sync_folder
from orchestration.backup import folder as folders
from orchestration.backup.folder import File, Manifest, Table

SCHEMAS = ("raw", "outbox")

# Tables to which rows are only added, and what grows with them. An erasure deletes
# from them, and starts over.
_GROWING = {"raw.lms_event": "load_id", "outbox.integration_event": "sequence"}


@dataclass(frozen=True)
class BackedUp:
    """A backup that was made. `new_bytes` were written for it, of its `bytes`; with
    `whole` it shares no file with those before."""

    folder: str
    number: int
    made_at: datetime
    load_id: int
    whole: bool
    rows: dict[str, int]
    bytes: int
    new_bytes: int
    kept: tuple[int, ...]
    seconds: float


def backup(
    warehouse_path: Path, folder: Path, *, keep: int, start_over: bool = False
) -> BackedUp:
    """Makes a backup, and removes all but the newest `keep` in the folder.

    With `start_over` it is written whole and no other is kept: for when a learner was
    erased. Killed at any instant, it leaves those before whole. Nobody writes to the
    warehouse while its rows are read; readers have the snapshot. Raises
    `WarehouseError`.
    """
    started = time.perf_counter()
    folder = folder.resolve()
    database.must_exist(warehouse_path)
    try:
        with (
            last_runs.noting_a_crash(warehouse_path, "backup"),
            progress.step("backing up"),
            folders.alone(folder, warehouse_path),
        ):
            made = _backup(warehouse_path, folder, keep, start_over, started)
            journal.note_backup(
                warehouse_path,
                journal.Backup(
                    folder=str(folder),
                    number=made.number,
                    load_id=made.load_id,
                    made_at=made.made_at,
                ),
            )
    except (duckdb.Error, OSError) as error:
        raise WarehouseError(
            f"{folder}: the backup cannot be written ({first_line(error)}); those "
            "before are as they were"
        ) from error
    last_runs.note(
        warehouse_path, "backup", last_runs.Run(database.utc_now(), succeeded=True)
    )
    return made


def _backup(
    warehouse_path: Path, folder: Path, keep: int, start_over: bool, started: float
) -> BackedUp:
    there = folders.numbers(folder)
    number = max(there, default=0) + 1
    with database.open_for_reading(warehouse_path) as connection:
        memory = Settings.from_environment().memory_limit
        connection.execute("set memory_limit = $1", [memory])
        # Every row says where it is from: their order in a table says nothing.
        connection.execute("set preserve_insertion_order = false")
        state = _State.of(connection)
        before = _newest(folder, there, or_none=start_over)
        if before is not None:
            _check_same_warehouse(connection, folder, before, state, warehouse_path)
            start_over = start_over or set(before.tombstones) != set(state.tombstones)
        continued = None if start_over or before is None else before
        if continued and (
            not _is_as_it_was(connection, continued)
            or folders.problems(folder, continued, read_all=False)
        ):
            continued = None
        tables = [
            _write_table(connection, folder, number, name, continued)
            for name in state.tables
        ]
        newest = {
            name: connection.execute(
                f"select coalesce(max({key}), 0) from {name}"
            ).fetchall()[0][0]
            for name, key in _GROWING.items()
            if name in state.tables
        }
    # The warehouse is free again.
    tables = _verified(folder, tables)
    manifest = Manifest(
        number=number,
        made_at=database.utc_now(),
        load_id=state.load_id,
        tables=tuple(tables),
        newest=newest,
        lineage=state.lineage,
        tombstones=state.tombstones,
    )
    folders.write(folder, manifest)
    kept = [manifest]
    if not start_over:
        for older in there[::-1][: keep - 1]:
            with contextlib.suppress(WarehouseDamaged):
                kept.append(folders.read(folder, older))
    folders.remove_others(folder, kept)
    return BackedUp(
        folder=str(folder),
        number=number,
        made_at=manifest.made_at,
        load_id=manifest.load_id,
        whole=continued is None,
        rows={table.name: table.rows for table in tables},
        bytes=manifest.bytes,
        new_bytes=sum(
            file.bytes
            for file in manifest.files
            if continued is None or file not in set(continued.files)
        ),
        kept=tuple(sorted(each.number for each in kept)),
        seconds=round(time.perf_counter() - started, 3),
    )


def _newest(folder: Path, there: list[int], *, or_none: bool) -> Manifest | None:
    """The newest backup that can be read. Raises `WarehouseError` where there are some
    and none can be, unless all of them go anyhow."""
    for number in reversed(there):
        with contextlib.suppress(WarehouseDamaged):
            return folders.read(folder, number)
    if there and not or_none:
        raise WarehouseError(
            f"{folder}: has backups, and all of them are damaged; move them away, or "
            "give another folder"
        )
    return None


@dataclass(frozen=True)
class _State:
    """What the warehouse is, to tell whether a folder's backups are of it."""

    tables: tuple[str, ...]
    load_id: int
    lineage: str
    tombstones: tuple[str, ...]

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> "_State":
        names = connection.execute(
            "select schema_name || '.' || table_name from duckdb_tables() where "
            "database_name = current_database() and schema_name in $1 and not temporary"
            " order by all",
            [list(SCHEMAS)],
        ).fetchall()
        [[load_id]] = connection.execute(
            "select coalesce(max(load_id), 0) from raw.load"
        ).fetchall()
        erased = connection.execute(
            "select distinct user_hash from raw.tombstone order by all"
        ).fetchall()
        return cls(
            tuple(name for (name,) in names),
            int(load_id),
            _lineage(connection, int(load_id)),
            tuple(user_hash for (user_hash,) in erased),
        )


def _lineage(connection: duckdb.DuckDBPyConnection, load_id: int) -> str:
    """Names the loads up to this one, by what was landed."""
    [[found]] = connection.execute(
        """
        select coalesce(
            md5(string_agg(concat(load_id, ' ', file_sha256), ',' order by load_id)), ''
        )
        from raw.load
        where load_id <= $1
        """,
        [load_id],
    ).fetchall()
    return str(found)


def _check_same_warehouse(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    before: Manifest,
    state: _State,
    warehouse_path: Path,
) -> None:
    """Backups go on only from those of the same warehouse: a new and empty one must not
    push out the backups of the one that was lost."""
    if _lineage(connection, before.load_id) != before.lineage:
        raise WarehouseError(
            f"{folder}: its newest backup ({before.number}, through load "
            f"{before.load_id}) has loads that {warehouse_path} has not; restore it "
            "(`warehouse restore`), or give another folder"
        )
    if not set(before.tombstones) <= set(state.tombstones):
        raise WarehouseError(
            f"{folder}: its newest backup ({before.number}) knows of erasures that "
            f"{warehouse_path} does not; restore it (`warehouse restore`), or erase "
            "again"
        )


def _is_as_it_was(connection: duckdb.DuckDBPyConnection, before: Manifest) -> bool:
    """Whether what the backup has of tables that grow is what is there."""
    for name, key in _GROWING.items():
        table = before.table(name)
        if table is None:
            continue
        [[rows]] = connection.execute(
            f"select count(*) from {name} where {key} <= $1", [before.newest[name]]
        ).fetchall()
        if rows != table.rows or table.sql != _sql_of(connection, name):
            return False
    return True


def _sql_of(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    schema, table = name.split(".")
    [[sql]] = connection.execute(
        "select sql from duckdb_tables() where database_name = current_database() "
        "and schema_name = $1 and table_name = $2",
        [schema, table],
    ).fetchall()
    return str(sql)


def columns_of(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """The columns that have a value of their own, as SQL."""
    schema, table = name.split(".")
    rows = connection.execute(
        """
        select column_name
        from information_schema.columns
        where
            table_catalog = current_database()
            and table_schema = $1
            and table_name = $2
            and is_generated = 'NEVER'
        order by ordinal_position
        """,
        [schema, table],
    ).fetchall()
    return ", ".join(sql_name(column) for (column,) in rows)


def content_of(connection: duckdb.DuckDBPyConnection, rows: str) -> tuple[int, str]:
    """How many rows, and what is equal if they are the same, in whatever order."""
    [[count, content]] = connection.execute(
        f"select count(*), coalesce(sum(hash(found)), 0)::varchar from {rows} as found"
    ).fetchall()
    return int(count), str(content)


def _write_table(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    number: int,
    name: str,
    before: Manifest | None,
) -> Table:
    known = before.table(name) if before else None
    sql = _sql_of(connection, name)
    rows = f"(select {columns_of(connection, name)} from {name}"
    kept: tuple[File, ...] = ()
    if before and known and (key := _GROWING.get(name)):
        rows += f" where {key} > {before.newest[name]:d}"
        kept = known.files
    rows += ")"
    count, content = content_of(connection, rows)
    if (kept or not known) and not count:
        return Table(name, sql, kept)
    if known and not kept and known.sql == sql:
        unchanged = [(file.rows, file.content) for file in known.files]
        if unchanged == [(count, content)] or (not unchanged and not count):
            return Table(name, sql, known.files)
    path = folder / name / f"rows-{number:08}.parquet"
    path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
    unfinished = hidden(path)
    connection.execute(
        f"copy {rows} to {sql_path(unfinished)} (format parquet, compression zstd)"
    )
    rename_durably(unfinished, path, read_only=True)
    sync_folder(folder)
    file = File(
        name=str(path.relative_to(folder)),
        rows=count,
        content=content,
        bytes=path.stat().st_size,
    )
    return Table(name, sql, (*kept, file))


def _verified(folder: Path, tables: list[Table]) -> list[Table]:
    """Reads every new file back, and notes its SHA-256. Raises `WarehouseError`."""
    with duckdb.connect() as connection:
        memory = Settings.from_environment().memory_limit
        connection.execute("set memory_limit = $1", [memory])
        connection.execute("set preserve_insertion_order = false")

        def verified(file: File) -> File:
            if file.sha256:
                return file
            path = folder / file.name
            there = content_of(connection, f"read_parquet({sql_path(path)})")
            if there != (file.rows, file.content):
                raise WarehouseError(
                    f"{path}: has other rows than were written; the disk may be "
                    "faulty: nothing was kept of this backup"
                )
            return replace(file, sha256=folders.sha256_of(path))

        return [
            replace(table, files=tuple(verified(file) for file in table.files))
            for table in tables
        ]


def start_over_everywhere(
    warehouse_path: Path, configured: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """After an erasure: makes the backup in every folder that ever got one anew, and
    keeps none of before. Those made, and those that are not there now."""
    made, missing = [], []
    known = journal.read(warehouse_path).backup_folders()
    for folder in dict.fromkeys((*known, *([configured] if configured else ()))):
        if folders.numbers(folder):
            backup(warehouse_path, folder, keep=1, start_over=True)
            made.append(str(folder))
        elif folder in known and not folder.is_dir():
            missing.append(str(folder))
    return tuple(made), tuple(missing)
