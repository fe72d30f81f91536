"""The one DuckDB file: where it is, how it is opened, and the `raw` schema.

The file has one writer at a time, in every process. Whoever opens it waits a while for
its turn; a reader waits too, because DuckDB's lock excludes readers while one writes.
"""

import contextlib
import functools
import glob
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import tenacity

from ingest import progress
from ingest.errors import (
    WarehouseDamaged,
    WarehouseError,
    WarehouseLocked,
    first_line,
)
from ingest.settings import Settings
from ingest.store import formats
from ingest.store.files import lock, rename_durably, sync_folder

Result = TypeVar("Result")


def sql_text(text: str) -> str:
    """A text as a literal in SQL, where no parameter can stand."""
    return "'{}'".format(text.replace("'", "''"))


def sql_path(path: Path) -> str:
    """A path as a literal in SQL."""
    return sql_text(str(path))


def sql_name(*parts: str) -> str:
    """A name in SQL, whatever its characters: `"schema"."table"`."""
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in parts)


@contextlib.contextmanager
def transaction(
    connection: duckdb.DuckDBPyConnection, *, dry_run: bool = False
) -> Iterator[None]:
    """All that the block writes, or nothing; on a `dry_run` always nothing."""
    connection.execute("begin")
    try:
        yield
        connection.execute("rollback" if dry_run else "commit")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a full disk, say, has ended it
            connection.execute("rollback")
        raise


def lock_wait_sec() -> float:
    """How long to wait for another process to let the file go."""
    return Settings.from_environment().lock_wait_sec


def utc_now() -> datetime:
    """The current time as all timestamps in the warehouse are: naive, in UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


@functools.cache
def raw_schema() -> str:
    """The SQL that makes the schema `raw`."""
    return Path(__file__).with_name("raw.sql").read_text(encoding="utf-8")


# DuckDB's file lock is between processes; within one, two connections share the file
# and could both find the same event new.
_one_writer_in_this_process = threading.RLock()


def path_of(connection: duckdb.DuckDBPyConnection) -> Path:
    """The file that the connection has open."""
    [[path]] = connection.execute(
        "select path from duckdb_databases() where database_name = current_database()"
    ).fetchall()
    return Path(path)


def is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and "lock" in str(error)


def _connect(
    path: Path,
    *,
    read_only: bool,
    wait_sec: float | None,
    config: dict[str, Any] | None = None,
) -> duckdb.DuckDBPyConnection:
    if wait_sec is None:
        wait_sec = lock_wait_sec()
    connect = functools.partial(
        duckdb.connect, str(path), read_only=read_only, config=config or {}
    )
    try:
        while True:
            inode = _inode(path)
            connection = _once_free(path, connect, is_locked, wait_sec)
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


def _once_free(
    path: Path,
    function: Callable[[], Result],
    is_held: Callable[[BaseException], bool],
    wait_sec: float,
) -> Result:
    """Calls it, and again for `wait_sec` while its error says that the file is held."""
    with contextlib.ExitStack() as waiting:

        def show(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 1:
                what = f"waiting until another process lets {path.name} go"
                waiting.enter_context(progress.step(what))

        attempt = tenacity.retry(
            retry=tenacity.retry_if_exception(is_held),
            wait=tenacity.wait_random(0.05, 0.3),
            stop=tenacity.stop_after_delay(wait_sec),
            before_sleep=show,
            reraise=True,
        )
        return attempt(function)()


def _inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_ino
    return None


def is_damage(error: BaseException | str) -> bool:
    """DuckDB compares each block of the file and of its log with a checksum."""
    return re.search(r"Corrupt \w+ file", str(error)) is not None


@contextlib.contextmanager
def damage_is_said(path: Path) -> Iterator[None]:
    """What fails in the block because the warehouse is damaged raises
    `WarehouseDamaged`, which says what restores it."""
    try:
        yield
    except (duckdb.Error, WarehouseError) as error:
        if isinstance(error, WarehouseDamaged) or not is_damage(error):
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> WarehouseDamaged:
    if _raw_is_whole(path):
        return WarehouseDamaged(
            f"{path}: damaged in what is derived ({first_line(error)}); `raw` is "
            "whole: run `warehouse rebuild`, which derives all of it again"
        )
    return WarehouseDamaged(
        f"{path}: damaged ({first_line(error)}); move it and {path.name}.wal away, and "
        "run `warehouse restore FOLDER` with the folder of its backups, or without one "
        "`warehouse restore --from-published` or `--from-landing`"
    )


def _raw_is_whole(path: Path) -> bool:
    """Whether every byte of what was landed can be read."""
    try:
        with contextlib.closing(duckdb.connect(str(path), read_only=True)) as opened:
            for name in re.findall(r"create table if not exists (\S+)", raw_schema()):
                opened.execute(f"select sum(hash(found)) from {name} as found")
    except duckdb.Error:
        return False
    return True


def lock_holder(error: BaseException) -> str:
    """Who holds the lock, as DuckDB says it; nothing where it does not know."""
    found = re.search(r"held in (.+? \(PID \d+\).*?)\. ", str(error))
    return f": {found[1]}" if found else ""


def _explain(error: Exception, path: Path, wait_sec: float) -> WarehouseError:
    if is_locked(error):
        return WarehouseLocked(
            f"{path}: another process has held the warehouse for {wait_sec:g} s"
            f"{lock_holder(error)}; wait for it to end, or end it"
        )
    reason = first_line(error)
    if "not a valid DuckDB" in str(error):
        return WarehouseError(
            f"{path}: not a DuckDB file, or a damaged one ({reason}); "
            "restore it from a copy, or set LMS_WAREHOUSE to another path"
        )
    if is_damage(error):
        return _damaged(path, error)
    return WarehouseError(f"{path}: cannot be opened ({reason})")


def _format(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """The format of the file's `raw`; 0 while it is empty.

    Raises `WarehouseError` for a newer one of any part, whose rules are not known here,
    and for a file of something else.
    """
    [[tables, loads]] = connection.execute(
        """
        select
            count(*),
            count(*) filter (schema_name = 'raw' and table_name = 'load')
        from duckdb_tables()
        where database_name = current_database() and not temporary
        """
    ).fetchall()
    if not tables:
        return 0
    if not loads:
        raise WarehouseError(
            f"{path}: a DuckDB file of something else (it has no raw.load); "
            "set LMS_WAREHOUSE to another path"
        )
    _refuse_newer(connection, path)
    return formats.numbers(connection).get("raw", 1)


def _refuse_newer(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    if reason := formats.newer(connection):
        raise WarehouseError(
            f"{path}: a newer version made it ({reason}); use that version. Nothing "
            "was changed"
        )


def _make_raw(connection: duckdb.DuckDBPyConnection) -> None:
    """The schema `raw`, in an empty file."""
    with transaction(connection):
        connection.execute(raw_schema())
        formats.note(connection, "raw", formats.FORMATS["raw"])


def _make(path: Path) -> None:
    """A new warehouse, whole from the moment its name exists.

    DuckDB writes the first blocks of a file one by one: killed between two of them, it
    leaves one that it can't open again. What another process made meanwhile stays.
    """
    _remove_unmade(path)
    new = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        with contextlib.closing(duckdb.connect(str(new))) as connection:
            _make_raw(connection)
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


def must_exist(path: Path) -> None:
    """Raises `WarehouseError` when there is no warehouse."""
    if not path.exists():
        raise WarehouseError(
            f"{path}: no warehouse there; land events first (`warehouse land PATH`), "
            "or set LMS_WAREHOUSE"
        )


@contextlib.contextmanager
def open_for_writing(
    path: Path, *, make: bool = False, wait_sec: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse as its only writer, with what is missing of its `raw` schema made.

    Only what lands may `make` the file: with a mistyped path, anything else would work
    on an empty warehouse, and say that all is well. Raises `WarehouseError` when there
    is none, or it is locked for longer than `wait_sec` (`lock_wait_sec()` if not
    given), is damaged, belongs to something else or cannot be written.
    """
    if not make:
        must_exist(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WarehouseError(f"{path}: cannot be made ({error.strerror})") from error
    with _one_writer_in_this_process, damage_is_said(path):
        while make and not path.exists():
            _make(path)
        connection = _connect(path, read_only=False, wait_sec=wait_sec)
        try:
            number = _format(connection, path)
            if not number:
                _make_raw(connection)
            elif number < formats.FORMATS["raw"]:
                migrations = formats.raw_migrations()
                formats.carry_over(connection, "raw", number, migrations)
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def open_for_reading(
    path: Path, *, wait_sec: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, read-only. Raises `WarehouseError` when there is none."""
    must_exist(path)
    with _one_writer_in_this_process, damage_is_said(path):
        connection = _connect(path, read_only=True, wait_sec=wait_sec)
        try:
            number = _format(connection, path)
            if 0 < number < formats.FORMATS["raw"]:
                # An older version made it; opened for writing it gets what it lacks.
                connection.close()
                with open_for_writing(path, wait_sec=wait_sec):
                    pass
                connection = _connect(path, read_only=True, wait_sec=wait_sec)
            if not number:
                raise WarehouseError(
                    f"{path}: the warehouse is empty; land events first "
                    "(`warehouse land PATH`)"
                )
            yield connection
        finally:
            connection.close()


def hold(path: Path, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """Opens the warehouse for writing once it is free, as `open_for_writing` does.

    For who opens it by itself in this process, with the same configuration, as dbt
    does: close this one after that. Raises `WarehouseError`.
    """
    must_exist(path)
    connection = _connect(path, read_only=False, wait_sec=None, config=config)
    try:
        _refuse_newer(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


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
    with _one_writer_in_this_process, _only_who_replaces(path, wait_sec):
        remove_unfinished(path)
        with _held(path, wait_sec) as connection:
            try:
                _copy(connection, path, fresh)
                fresh.chmod(path.stat().st_mode)
                rename_durably(fresh, path)
            except (duckdb.Error, OSError) as error:
                raise WarehouseError(
                    f"{path}: cannot be written anew ({first_line(error)}); what was "
                    "deleted is still in its free space: run the same again"
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


def replacing_lock(path: Path) -> Path:
    """The lock file of who puts another file in the place of the warehouse."""
    return path.with_name(f".{path.name}.replacing.lock")


@contextlib.contextmanager
def _only_who_replaces(path: Path, wait_sec: float | None) -> Iterator[None]:
    """Whoever puts another file in the place of the warehouse, one after the other.

    They attach it for reading, which keeps writers out and not each other: the second
    would put what it read before the first, and before who wrote after that, over both.
    """
    from filelock import Timeout

    if wait_sec is None:
        wait_sec = lock_wait_sec()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(replacing_lock(path), wait_sec=wait_sec))
        except Timeout as error:
            raise WarehouseLocked(
                f"{path}: another process has held the warehouse for {wait_sec:g} s to "
                "write it anew; wait for it to end"
            ) from error
        yield


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
            temporary = sql_path(path.with_name(f"{path.name}.rewriting.tmp"))
            connection.execute(f"set temp_directory = {temporary}")
            try:
                connection.execute(f"attach {sql_path(path)} as old (read_only)")
            except duckdb.Error as error:
                if is_locked(error):
                    continue  # someone was faster; `open_for_writing` waits for it
                raise
            if wal.exists():
                continue  # who was faster has been killed
            yield connection
            return


def put_in_place(
    fresh: Path, path: Path, is_unchanged: Callable[[duckdb.DuckDBPyConnection], bool]
) -> None:
    """Gives a finished file the name of the warehouse, over the one that is there if
    nothing was written to that since `is_unchanged` looked (it is attached as `old`).

    Raises `WarehouseError`, and has then changed nothing.
    """
    with _one_writer_in_this_process, _only_who_replaces(path, None):
        if path.exists():
            with _held(path, None) as connection:
                if not is_unchanged(connection):
                    raise WarehouseError(
                        f"{path}: was written to meanwhile; it was not replaced: run "
                        "the same again"
                    )
                fresh.chmod(path.stat().st_mode)
                rename_durably(fresh, path)
                time.sleep(_KEEP_LOCKED_SEC)
            return
        wal = path.with_name(f"{path.name}.wal")
        if wal.exists():
            raise WarehouseError(
                f"{wal}: the log of a warehouse that is gone; move it away first"
            )
        rename_durably(fresh, path)


def _copy(connection: duckdb.DuckDBPyConnection, path: Path, fresh: Path) -> None:
    connection.execute(f"attach {sql_path(fresh)} as fresh")
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
                f"select count(*) from {sql_name(database, schema, name)}"
            ).fetchall()
        found[schema, name] = (sql, rows)
    return found


def attach(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    """Attaches a DuckDB file for reading."""
    connection.execute(f"attach {sql_path(path)} as {name} (read_only)")


def wait_for_lock(warehouse_path: Path, function: Callable[[], Result]) -> Result:
    """Calls it, and again while another process has the warehouse open for writing."""
    wait_sec = lock_wait_sec()
    try:
        return _once_free(warehouse_path, function, _says_locked, wait_sec)
    except (duckdb.Error, WarehouseError) as error:
        if not _says_locked(error):
            raise
        raise WarehouseLocked(
            f"{warehouse_path}: other processes have held the warehouse for "
            f"{wait_sec:g} s{lock_holder(error)}; wait for them to end"
        ) from error


def _says_locked(error: BaseException) -> bool:
    """Whoever else passes DuckDB's message on: dbt does."""
    return "Could not set lock" in str(error)
