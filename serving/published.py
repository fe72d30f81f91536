"""Where the published snapshot is, how it is opened, and what may be asked of it.

A question is SQL that somebody typed, pasted or was sent. It reads the snapshot and
nothing else: no other file of the machine, and none is written.
"""

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import duckdb

from ingest.errors import WarehouseDamaged, WarehouseError, first_line
from ingest.settings import Settings
from ingest.store import database
from ingest.store.database import sql_name

# Of the snapshot, in `published.snapshot`: one more with each change of what readers
# find where. Publishing writes one of another format anew.
FORMAT = 1

# Statements that can write no file: what they write of tables are temporary ones.
_HARMLESS = frozenset(
    (
        *("SELECT", "SET", "VARIABLE_SET", "PRAGMA", "CALL", "TRANSACTION"),
        *("INSERT", "UPDATE", "DELETE", "DROP", "ALTER"),
    )
)
# Of DuckDB's other types, which may have a `copy` inside, what begins so has none.
_HARMLESS_START = re.compile(
    r"(explain\s+(analyze\s+)?)?(with|from|select|pivot|unpivot|summarize|describe|show"
    r"|values|table)\b|create\s+(or\s+replace\s+)?temp(orary)?\s",
    re.IGNORECASE,
)


def snapshot_path(warehouse_path: Path) -> Path:
    """Where readers find the newest snapshot.

    It is in `LMS_PUBLISHED`, or else in published/ beside the warehouse, under the
    warehouse's own name.
    """
    return Settings.of(warehouse_path).published / warehouse_path.name


def connect(path: Path, *, writes: Path | None = None) -> duckdb.DuckDBPyConnection:
    """The snapshot in the file, read-only; of other files it reads its own events, and
    may write the one file `writes`. Raises `WarehouseError` when it is not there or
    damaged.

    It is attached to a database of this connection's own: opened as one, it would share
    that, and what is closed to it, with whoever else in this process has it open.
    """
    connection = duckdb.connect()
    try:
        if not path.exists():
            raise WarehouseError(
                f"{path}: nothing was published yet; run `warehouse refresh`"
            )
        database.attach(connection, path, sql_name(path.stem))
        use(connection, path)
        _check_format(connection, path)
        # Beside it, where an erasure removes what a killed reader left.
        spill = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        connection.execute("set temp_directory = $1", [str(spill)])
        seal(connection, events=_events_folder(connection, path), writes=writes)
    except (duckdb.Error, OSError) as error:
        connection.close()
        if database.is_locked(error):
            raise WarehouseError(
                f"{path}: another process has opened the snapshot for writing"
                f"{database.lock_holder(error)}; have it open the file read-only, or "
                "end it; `warehouse refresh` publishes a new file beside it"
            ) from error
        raise _unreadable(path, error) from error
    return connection


def _unreadable(path: Path, error: Exception) -> WarehouseDamaged:
    return WarehouseDamaged(
        f"{path}: damaged, or no snapshot ({first_line(error)}); `warehouse reconcile "
        "--repair` publishes it again from the warehouse"
    )


def _check_format(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Raises `WarehouseError` for a newer one. Those before format 1 have no number,
    and are read as far as they go."""
    try:
        [[number]] = connection.execute(
            "select format from published.snapshot"
        ).fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):
        return
    if number > FORMAT:
        raise WarehouseError(
            f"{path}: a newer version published it (its format is {number}, this "
            f"version knows those up to {FORMAT}); use that version, or `warehouse "
            "refresh` with this one"
        )


def use(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Names without a database are the snapshot's; a cursor has to be told again."""
    connection.execute(f"use {sql_name(path.stem)}")


def _events_folder(connection: duckdb.DuckDBPyConnection, path: Path) -> Path | None:
    """The folder of the Parquet files that `raw.lms_event` is a view of."""
    try:
        [[generation]] = connection.execute(
            "select generation from published.snapshot"
        ).fetchall()
    except duckdb.CatalogException:
        return None  # no snapshot of ours
    return path.resolve().parent / str(generation)


def seal(
    connection: duckdb.DuckDBPyConnection,
    *,
    events: Path | None = None,
    writes: Path | None = None,
) -> None:
    """Closes all files to a connection but the database, the folder `events` and the
    file `writes`, for as long as it is open.

    What DuckDB may read of files it may write: `check_question` refuses that.
    """
    # For cursors as well: nothing can be set afterwards.
    connection.execute("set global timezone = 'UTC'")
    connection.execute("set enable_progress_bar = false")
    if events is not None:
        connection.execute("set allowed_directories = $1", [[str(events)]])
    if writes is not None:
        connection.execute("set allowed_paths = $1", [[str(writes)]])
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def check_question(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises `WarehouseError` for a statement that could write a file, and DuckDB's own
    errors for what is no SQL."""
    for statement in connection.extract_statements(sql):
        text = statement.query.strip()
        if statement.type.name not in _HARMLESS and not _HARMLESS_START.match(text):
            raise WarehouseError(
                f"{text.split(maxsplit=1)[0].lower()}: a question only reads; "
                "`warehouse export TABLE --output FILE` writes a table into a file"
            )


@contextlib.contextmanager
def opened(
    warehouse_path: Path, *, writes: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The newest snapshot, read-only. Raises `WarehouseError` when there is none."""
    path = snapshot_path(warehouse_path)
    with contextlib.closing(connect(path, writes=writes)) as connection:
        try:
            with replacement_is_said(path):
                yield connection
        except (duckdb.Error, WarehouseError) as error:
            if database.is_damage(error) and not isinstance(error, WarehouseDamaged):
                raise _unreadable(path, error) from error
            raise


@contextlib.contextmanager
def replacement_is_said(path: Path) -> Iterator[None]:
    """An erasure removes the events of the snapshots before it: who has one open gets
    a `WarehouseError` that says so."""
    try:
        yield
    except (duckdb.Error, WarehouseError) as error:
        if "No files found that match the pattern" not in str(error):
            raise
        raise WarehouseError(
            f"{path}: the snapshot was replaced meanwhile, because a learner was "
            "erased; ask again"
        ) from error
