"""A shadow: everything derived again beside the live state, from a cut of raw.

It is a DuckDB file of its own beside the warehouse. Its `raw` are views of the
warehouse's, which is attached for reading only: nothing can change it. dbt derives in
the shadow as in a warehouse that was only ever given what those views show, with the
same models and the same bookkeeping; no model knows of it.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import Any

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.store import database
from ingest.store.files import lock
from orchestration.derive import dbt_runner
from orchestration.derive.dbt_project import Relation

# The names under which a shadow sees the warehouse (as in dbt_project/profiles.yml),
# and the warehouse a shadow.
LIVE = "_live_"
SHADOW = "_shadow_"

# The condition that cuts one table of `raw`, from its name and its columns.
Cut = Callable[[str, Collection[str]], str]


@dataclass(frozen=True)
class Shadow:
    """The file of a shadow, and what was derived in it, in dbt's order."""

    path: Path
    relations: tuple[Relation, ...] = ()


@contextlib.contextmanager
def folder(warehouse_path: Path) -> Iterator[Path]:
    """A folder beside the warehouse, on the same disk, removed at the end.

    Who makes one removes those that a killed process left behind: their lock is free.
    """
    remove_left_behind(warehouse_path)
    try:
        path = Path(
            tempfile.mkdtemp(
                prefix=f"{warehouse_path.name}.shadow-", dir=warehouse_path.parent
            )
        )
    except OSError as error:
        raise WarehouseError(
            f"{warehouse_path.parent}: no shadow can be made here ({error.strerror})"
        ) from error
    try:
        with lock(path / "lock"):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_left_behind(warehouse_path: Path) -> None:
    """Removes the shadows beside the warehouse that nobody uses any more."""
    for path in warehouse_path.parent.glob(f"{escape(warehouse_path.name)}.shadow-*"):
        if (path / "lock").exists():  # else it is being made
            with (
                contextlib.suppress(OSError),  # a timeout is one
                lock(path / "lock", wait_sec=0),
            ):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def opened(path: Path, warehouse_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A shadow, made if it is missing, with the warehouse attached for reading.

    Raises `WarehouseError`: a full disk, say, is one line.
    """
    try:
        with contextlib.closing(duckdb.connect(str(path))) as connection:
            connection.execute("set timezone = 'UTC'")
            database.wait_for_lock(
                warehouse_path,
                lambda: database.attach(connection, warehouse_path, LIVE),
            )
            yield connection
    except duckdb.Error as error:
        raise WarehouseError(f"nothing was changed: {first_line(error)}") from error


def make_raw(connection: duckdb.DuckDBPyConnection, cut: Cut) -> None:
    """Makes the shadow's `raw`: the one place where what it derives from is cut."""
    tables = connection.execute(
        f"""
        select table_name, list(column_name)
        from duckdb_columns()
        where database_name = '{LIVE}' and schema_name = 'raw'
        group by table_name
        order by table_name
        """
    ).fetchall()
    connection.execute("create schema raw")
    for table, columns in tables:
        connection.execute(
            f'create view raw."{table}" as select * from {LIVE}.raw."{table}" '
            f"where {cut(table, columns)}"
        )


def derive(
    path: Path,
    warehouse_path: Path,
    *,
    select: Sequence[str] = (),
    tested: bool = False,
    variables: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Shadow:
    """Derives what dbt `select`s (everything if empty) in the shadow.

    `tested` runs the data tests of what is derived as well, those that scan the whole
    history aside. Raises `WarehouseError` when a model or a test fails.
    """
    # Sources are the warehouse's, cut: their tests say nothing about a shadow.
    untested = ["resource_type:unit_test", dbt_runner.FULL_SCAN_TESTS, "source:*"]
    derivation, relations = database.wait_for_lock(
        warehouse_path,
        lambda: dbt_runner.derive_shadow(
            path,
            warehouse_path,
            select=select,
            exclude=untested
            if tested
            else ["resource_type:test", "resource_type:unit_test"],
            variables=variables,
            now=now,
        ),
    )
    if derivation.failures:
        failures = (str(node.problem) for node in derivation.failures)
        raise WarehouseError(
            f"deriving again failed, so nothing was changed: {'; '.join(failures)}"
        )
    return Shadow(
        path,
        tuple(
            relations[node.unique_id]
            for node in derivation.nodes
            if node.unique_id in relations
        ),
    )
