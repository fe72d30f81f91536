"""Where the published snapshot is, and how it is opened."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.settings import Settings


def snapshot_path(warehouse_path: Path) -> Path:
    """Where readers find the newest snapshot.

    It is in `LMS_PUBLISHED`, or else in published/ beside the warehouse, under the
    warehouse's own name.
    """
    return Settings.of(warehouse_path).published / warehouse_path.name


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """The snapshot in the file, read-only. Raises `WarehouseError` when it is not there
    or damaged."""
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except (duckdb.Error, OSError) as error:
        if not path.exists():
            raise WarehouseError(
                f"{path}: nothing was published yet; run `warehouse refresh`"
            ) from error
        raise WarehouseError(
            f"{path}: cannot be opened ({first_line(error)}); remove it and run "
            "`warehouse refresh`, which publishes it again"
        ) from error
    connection.execute("set timezone = 'UTC'")
    connection.execute("set enable_progress_bar = false")
    return connection


@contextlib.contextmanager
def opened(warehouse_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The newest snapshot, read-only. Raises `WarehouseError` when there is none."""
    with contextlib.closing(connect(snapshot_path(warehouse_path))) as connection:
        yield connection
