"""The one DuckDB file: where it is, how it is opened, and the `raw` schema.

The file has one writer at a time, in every process. Whoever opens it waits a while for
its turn; a reader waits too, because DuckDB's lock excludes readers while one writes.
"""

import contextlib
import glob
import os
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import duckdb
import tenacity

from ingest.contracts import events

DEFAULT_WAREHOUSE = Path("data/warehouse.duckdb")
DEFAULT_LANDING_ZONE = Path("data/landing")

# No primary key and no unique index: DuckDB keeps an index in memory (5 to 8 GiB for 50
# million ids) and has reported failures of replaying one after a kill. The loader keeps
# `event_id` unique, and a data test proves it. `line` is compressed with zstd: a third
# of the size that DuckDB's own choice gives.
RAW_SCHEMA = """
create schema if not exists raw;

create table if not exists raw.lms_event (
    event_id varchar not null,
    event_key uuid not null,
    type varchar not null,
    schema_version integer not null,
    user_id varchar not null,
    class_id varchar not null,
    course_id varchar,
    occurred_at timestamp not null,
    line varchar using compression zstd not null,
    payload json generated always as (json_extract(line, '$.payload')) virtual,
    received_at timestamp not null,
    load_id bigint not null,
    file varchar not null,
    line_number bigint not null
);

create table if not exists raw.dead_letter (
    load_id bigint not null,
    file varchar not null,
    line_number bigint not null,
    reason varchar not null,
    field varchar,
    detail varchar not null,
    event_id varchar,
    line blob not null,
    line_bytes bigint not null,
    line_sha256 varchar not null,
    first_seen timestamp not null,
    attempts integer not null
);

create table if not exists raw.retried_letter (
    retry_load_id bigint not null,
    load_id bigint not null,
    line_number bigint not null,
    outcome varchar not null
);

create table if not exists raw.discarded_letter (
    load_id bigint not null,
    file varchar not null,
    line_number bigint not null,
    reason varchar not null,
    field varchar,
    detail varchar not null,
    event_id varchar,
    line blob not null,
    line_bytes bigint not null,
    line_sha256 varchar not null,
    first_seen timestamp not null,
    attempts integer not null,
    discarded_at timestamp not null,
    discarded_by varchar not null,
    why varchar not null
);

create table if not exists raw.load (
    load_id bigint not null,
    kind varchar not null,
    file varchar not null,
    file_sha256 varchar not null,
    file_bytes bigint not null,
    file_mtime_ns bigint not null,
    lines_read bigint not null,
    accepted bigint not null,
    duplicate bigint not null,
    conflict bigint not null,
    rejected bigint not null,
    received_at timestamp not null,
    seconds double not null,
    loader_version varchar not null,
    contracts_digest varchar not null,
    erased bigint default 0
);

-- For a file that an older version made.
alter table raw.load add column if not exists erased bigint default 0;

create table if not exists raw.catalogue (
    load_id bigint not null,
    effective_from timestamp not null,
    class_id varchar not null,
    course_id varchar not null,
    title varchar not null,
    position integer not null,
    has_video integer not null,
    has_quiz integer not null
);

create table if not exists raw.set_aside_event (
    event_id varchar not null,
    type varchar not null,
    user_id varchar,
    class_id varchar,
    line varchar using compression zstd not null,
    received_at timestamp not null,
    file varchar not null
);

create table if not exists raw.tombstone (
    user_hash varchar not null,
    key_id varchar not null,
    erased_at timestamp not null,
    reason varchar not null
);
"""

_TABLES = RAW_SCHEMA.count("create table")


class WarehouseError(Exception):
    """Something the user can mend; its text is one line: what, where, what to do."""


def warehouse_path() -> Path:
    """Where the warehouse is: `LMS_WAREHOUSE`, or else data/warehouse.duckdb."""
    return Path(os.environ.get("LMS_WAREHOUSE") or DEFAULT_WAREHOUSE).resolve()


def landing_zone_path() -> Path:
    """Where event and catalogue files arrive: `LMS_LANDING`, or else data/landing."""
    return Path(os.environ.get("LMS_LANDING") or DEFAULT_LANDING_ZONE).resolve()


def lock_wait_sec() -> float:
    """How long to wait for another process to let the file go: `LMS_LOCK_WAIT_SEC`."""
    return float(os.environ.get("LMS_LOCK_WAIT_SEC") or 60)


def utc_now() -> datetime:
    """The current time as all timestamps in the warehouse are: naive, in UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


class WarehouseLocked(WarehouseError):
    """Another process holds the file: the same call may pass later."""


# DuckDB's file lock is between processes; within one, two connections share the file
# and could both find the same event new.
_one_writer_in_this_process = threading.RLock()


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and "lock" in str(error)


def _connect(
    path: Path, *, read_only: bool, wait_sec: float | None
) -> duckdb.DuckDBPyConnection:
    if wait_sec is None:
        wait_sec = lock_wait_sec()
    attempt = tenacity.retry(
        retry=tenacity.retry_if_exception(_is_locked),
        wait=tenacity.wait_random(0.05, 0.3),
        stop=tenacity.stop_after_delay(wait_sec),
        reraise=True,
    )
    try:
        connection: duckdb.DuckDBPyConnection
        while True:
            inode = _inode(path)
            connection = attempt(duckdb.connect)(str(path), read_only=read_only)
            if inode in (None, _inode(path)):
                break
            # `rewrite` has put another file there: what is open may have no name.
            connection.close()
    except (duckdb.Error, OSError) as error:
        raise _explain(error, path, wait_sec) from error
    connection.execute("set timezone = 'UTC'")
    # It would write into what a command prints.
    connection.execute("set enable_progress_bar = false")
    return connection


def _inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_ino
    return None


def _explain(error: Exception, path: Path, wait_sec: float) -> WarehouseError:
    if _is_locked(error):
        return WarehouseLocked(
            f"{path}: another process has held the warehouse for {wait_sec:g} s; "
            "wait for it to end, or see who holds it with `fuser` on the file"
        )
    first_line = str(error).splitlines()[0]
    if "not a valid DuckDB" in str(error) or "corrupt" in str(error).lower():
        return WarehouseError(
            f"{path}: not a DuckDB file, or a damaged one ({first_line}); "
            "restore it from a copy, or set LMS_WAREHOUSE to another path"
        )
    return WarehouseError(f"{path}: cannot be opened ({first_line})")


def _raw_tables(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """How many tables `raw` has; raises when the file holds something else."""
    [[loads, raw_tables, tables]] = connection.execute(
        """
        select
            count(*) filter (schema_name = 'raw' and table_name = 'load'),
            count(*) filter (schema_name = 'raw'),
            count(*)
        from duckdb_tables()
        where database_name = current_database() and not temporary
        """
    ).fetchall()
    if tables and not loads:
        raise WarehouseError(
            f"{path}: a DuckDB file of something else (it has no raw.load); "
            "set LMS_WAREHOUSE to another path"
        )
    return int(raw_tables)


def _make(path: Path) -> None:
    """A new warehouse, whole from the moment its name exists.

    DuckDB writes the first blocks of a file one by one: killed between two of them, it
    leaves one that it can't open again. What another process made meanwhile stays.
    """
    _remove_unmade(path)
    new = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        with contextlib.closing(duckdb.connect(str(new))) as connection:
            connection.execute(RAW_SCHEMA)
        # Not found: another process, making it too, has taken ours for left behind.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.link(new, path)
        sync_folder(path.parent)
    except (duckdb.Error, OSError) as error:
        raise _explain(error, path, 0) from error
    finally:
        _remove_unmade(path)


def _remove_unmade(path: Path) -> None:
    for new in path.parent.glob(f"{glob.escape(path.name)}.new-*"):
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def open_for_writing(
    path: Path, *, wait_sec: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse as its only writer, made with what is missing of its `raw` schema.

    Raises `WarehouseError` when the file is locked for longer than `wait_sec`
    (`lock_wait_sec()` if not given), is damaged, belongs to something else or cannot be
    written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WarehouseError(f"{path}: cannot be made ({error.strerror})") from error
    with _one_writer_in_this_process:
        while not path.exists():
            _make(path)
        connection = _connect(path, read_only=False, wait_sec=wait_sec)
        try:
            # Fewer: an older version made it, or it was an empty DuckDB file.
            if _raw_tables(connection, path) < _TABLES:
                connection.execute(RAW_SCHEMA)
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def open_for_reading(
    path: Path, *, wait_sec: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, read-only. Raises `WarehouseError` when there is none."""
    if not path.exists():
        raise WarehouseError(
            f"{path}: no warehouse there; land events first (`warehouse land PATH`), "
            "or set LMS_WAREHOUSE"
        )
    with _one_writer_in_this_process:
        connection = _connect(path, read_only=True, wait_sec=wait_sec)
        try:
            tables = _raw_tables(connection, path)
            if 0 < tables < _TABLES:
                # An older version made it; opened for writing it gets what it lacks.
                connection.close()
                with open_for_writing(path, wait_sec=wait_sec):
                    pass
                connection = _connect(path, read_only=True, wait_sec=wait_sec)
            if not tables:
                raise WarehouseError(
                    f"{path}: the warehouse is empty; land events first "
                    "(`warehouse land PATH`)"
                )
            yield connection
        finally:
            connection.close()


# A writer that had the old file open already finds it locked, not free, for so long.
_KEEP_LOCKED_SEC = 0.2


def rewrite(path: Path, *, wait_sec: float | None = None) -> None:
    """Copies everything into a fresh file and puts that in the place of the old one.

    DuckDB only marks what is deleted as free: afterwards no byte of it is left. No one
    can write in the meantime; who reads goes on reading the old file. Killed at any
    instant, it leaves one of the two files, whole. Needs as much free space as the
    warehouse has. Raises `WarehouseError`, and has then changed nothing.
    """
    fresh = path.with_name(f"{path.name}.rewriting")
    with _one_writer_in_this_process:
        remove_unfinished(path)
        with _held(path, wait_sec) as connection:
            try:
                _copy(connection, path, fresh)
                with fresh.open("rb+") as file:
                    os.fchmod(file.fileno(), path.stat().st_mode)
                    os.fsync(file.fileno())
                os.replace(fresh, path)
                sync_folder(path.parent)
            except (duckdb.Error, OSError) as error:
                first_line = str(error).strip().splitlines()[0]
                raise WarehouseError(
                    f"{path}: cannot be written anew ({first_line}); what was deleted "
                    "is still in its free space: run the same again"
                ) from error
            finally:
                remove_unfinished(path)
            time.sleep(_KEEP_LOCKED_SEC)


def remove_unfinished(path: Path) -> None:
    """Removes what a process left behind that was killed while it wrote the file."""
    _remove_unmade(path)
    fresh = f"{path.name}.rewriting"
    for name in (fresh, f"{fresh}.wal"):
        path.with_name(name).unlink(missing_ok=True)
    for name in (f"{fresh}.tmp", f"{path.name}.tmp"):
        shutil.rmtree(path.with_name(name), ignore_errors=True)


@contextlib.contextmanager
def _held(path: Path, wait_sec: float | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, attached as `old` for reading only, all of it in the one file.

    Attached so, it lets no writer in, and closing it touches neither file nor log.
    """
    wal = path.with_name(f"{path.name}.wal")
    while True:
        with open_for_writing(path, wait_sec=wait_sec) as writing:
            writing.execute("force checkpoint")
        with contextlib.closing(duckdb.connect()) as connection:
            connection.execute("set timezone = 'UTC'")
            connection.execute("set enable_progress_bar = false")
            temporary = _quoted(path.with_name(f"{path.name}.rewriting.tmp"))
            connection.execute(f"set temp_directory = {temporary}")
            try:
                connection.execute(f"attach {_quoted(path)} as old (read_only)")
            except duckdb.Error as error:
                if _is_locked(error):
                    continue  # someone was faster; `open_for_writing` waits for it
                raise
            if wal.exists():
                continue  # who was faster has been killed
            yield connection
            return


def _copy(connection: duckdb.DuckDBPyConnection, path: Path, fresh: Path) -> None:
    connection.execute(f"attach {_quoted(fresh)} as fresh")
    connection.execute("copy from database old to fresh")
    counted = [_contents(connection, database) for database in ("old", "fresh")]
    if counted[0] != counted[1]:
        raise WarehouseError(
            f"{path}: the copy has other tables or rows; nothing was replaced"
        )
    connection.execute("checkpoint fresh")
    connection.execute("detach fresh")


def _contents(
    connection: duckdb.DuckDBPyConnection, database: str
) -> dict[tuple[str, str], tuple[str, int]]:
    """What a database has: the SQL of each table and view, and how many rows."""
    found = {}
    for schema, name, sql, is_table in connection.execute(
        """
        select schema_name, table_name, sql, true
        from duckdb_tables()
        where database_name = $database
        union all
        select schema_name, view_name, sql, false
        from duckdb_views()
        where database_name = $database and not internal
        """,
        {"database": database},
    ).fetchall():
        rows = 0
        if is_table:
            [[rows]] = connection.execute(
                f'select count(*) from {database}."{schema}"."{name}"'
            ).fetchall()
        found[schema, name] = (sql, rows)
    return found


def _quoted(path: Path) -> str:
    text = str(path).replace("'", "''")
    return f"'{text}'"


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record_load(
    connection: duckdb.DuckDBPyConnection,
    load_id: int,
    kind: str,
    source: Path | str,
    file_sha256: str,
    *,
    received_at: datetime,
    seconds: float,
    lines_read: int = 0,
    accepted: int = 0,
    duplicate: int = 0,
    conflict: int = 0,
    rejected: int = 0,
    erased: int = 0,
) -> None:
    """Writes the load's row: what it was made of, by which versions, and its counts.

    `source` is the file, or a name for what is none.
    """
    stat = source.stat() if isinstance(source, Path) else None
    row = {
        "load_id": load_id,
        "kind": kind,
        "file": str(source),
        "file_sha256": file_sha256,
        "file_bytes": stat.st_size if stat else 0,
        "file_mtime_ns": stat.st_mtime_ns if stat else 0,
        "lines_read": lines_read,
        "accepted": accepted,
        "duplicate": duplicate,
        "conflict": conflict,
        "rejected": rejected,
        "erased": erased,
        "received_at": received_at,
        "seconds": seconds,
        "loader_version": version("lms-warehouse"),
        "contracts_digest": events.digest(),
    }
    columns = ", ".join(row)
    values = ", ".join(f"${name}" for name in row)
    connection.execute(f"insert into raw.load ({columns}) values ({values})", row)


def next_load_id(connection: duckdb.DuckDBPyConnection) -> int:
    """The id of the load that is being made: they grow by one."""
    [[load_id]] = connection.execute(
        "select coalesce(max(load_id), 0) + 1 from raw.load"
    ).fetchall()
    return int(load_id)
