"""Reading the published snapshot: questions, and files of whole tables."""

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.store import database, outputs
from ingest.store.database import sql_path
from ingest.store.files import hidden, new_file
from serving import published

RELATIONS = """
select schema_name || '.' || table_name as name from duckdb_tables()
where not internal and database_name = current_database()
union all
select schema_name || '.' || view_name as name from duckdb_views()
where not internal and database_name = current_database()
order by name
"""


@dataclass(frozen=True)
class Answer:
    """Column names and rows, in the order of the query; `is_cut` if it has more."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool = False

    def as_json(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


# What `export` writes, by the suffixes of files.
FORMATS = ("parquet", "csv", "json", "arrow")


def ask(
    connection: duckdb.DuckDBPyConnection, sql: str, most: int | None = None
) -> Answer:
    """The answer, of at `most` so many rows.

    Raises `WarehouseError` with DuckDB's own words, in one line, and for what is no
    question but could write a file.
    """
    try:
        published.check_question(connection, sql)
        result = connection.execute(sql)
        columns = tuple(name for name, *_ in result.description or ())
        if most is None:
            return Answer(columns, tuple(result.fetchall()))
        rows = result.fetchmany(most + 1)
        return Answer(columns, tuple(rows[:most]), is_cut=len(rows) > most)
    except duckdb.Error as error:
        raise WarehouseError(" ".join(str(error).split())) from error


@contextlib.contextmanager
def opened_live(warehouse_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse itself, as closed to other files as the snapshot."""
    with database.open_for_reading(warehouse_path) as connection:
        published.seal(connection)
        yield connection


@dataclass(frozen=True)
class Export:
    path: str
    format: str
    rows: int
    bytes: int


def export(
    warehouse_path: Path, table: str, file_format: str, path: Path | None = None
) -> Export:
    """Writes a table or view (`schema.name`) of the snapshot as a file.

    The file is whole or not there. Raises `WarehouseError`.
    """
    path = path or Path(f"{table.rsplit('.', maxsplit=1)[-1]}.{file_format}")
    outputs.check(path, warehouse_path)
    with published.opened(warehouse_path, writes=hidden(path)) as connection:
        names = [name for (name,) in connection.execute(RELATIONS).fetchall()]
        if table not in names:
            likely = difflib.get_close_matches(table, names, n=3, cutoff=0.3)
            hint = f"did you mean {' or '.join(likely)}? " if likely else ""
            raise WarehouseError(
                f"{table}: no such table is published; {hint}`.tables` in `warehouse "
                "shell` lists all"
            )
        try:
            with new_file(path) as unfinished:
                rows = _write(connection, table, file_format, unfinished)
        except (duckdb.Error, OSError) as error:
            reason = first_line(error)
            raise WarehouseError(f"{path}: cannot be written ({reason})") from error
    return Export(str(path), file_format, rows, path.stat().st_size)


def _write(
    connection: duckdb.DuckDBPyConnection, table: str, file_format: str, path: Path
) -> int:
    if file_format == "arrow":
        import pyarrow as pa

        rows = 0
        batches = connection.sql(f"from {table}").to_arrow_reader()
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, batches.schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        return rows
    options = {
        "csv": "format csv, header true",
        "json": "format json, array true",
        "parquet": "format parquet",
    }[file_format]
    # It is the hidden file already, and the only one that may be written.
    [[count]] = connection.execute(
        f"copy (from {table}) to {sql_path(path)} ({options}, use_tmp_file false)"
    ).fetchall()
    return int(count)
