"""Reading the published snapshot: questions, and files of whole tables."""

import contextlib
import difflib
import json
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
    described = _described(connection, table)
    if file_format == "arrow":
        import pyarrow as pa

        rows = 0
        batches = connection.sql(f"from {table}").to_arrow_reader()
        columns = dict(described[1])
        schema = pa.schema(
            [
                field.with_metadata({"description": columns.get(field.name, "")})
                for field in batches.schema
            ],
            {"description": described[0]},
        )
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(pa.record_batch(batch.columns, schema=schema))
                rows += batch.num_rows
        return rows
    options = {
        "csv": "format csv, header true",
        "json": "format json, array true",
        "parquet": "format parquet, kv_metadata {description: getvariable('meant'), "
        "columns: getvariable('columns')}",
    }[file_format]
    connection.execute("set variable meant = $1", [described[0]])
    connection.execute("set variable columns = $1", [json.dumps(dict(described[1]))])
    # It is the hidden file already, and the only one that may be written.
    [[count]] = connection.execute(
        f"copy (from {table}) to {sql_path(path)} ({options}, use_tmp_file false)"
    ).fetchall()
    return int(count)


def _described(
    connection: duckdb.DuckDBPyConnection, table: str
) -> tuple[str, list[tuple[str, str]]]:
    """What a table means, and its columns: as the snapshot's comments say it."""
    [[meaning]] = connection.execute(
        """
        select coalesce(max(comment), '')
        from (
            select schema_name || '.' || table_name as name, comment
            from duckdb_tables() where database_name = current_database()
            union all
            select schema_name || '.' || view_name, comment
            from duckdb_views() where database_name = current_database()
        )
        where name = $1
        """,
        [table],
    ).fetchall()
    columns = connection.execute(
        """
        select column_name, comment
        from duckdb_columns()
        where
            database_name = current_database() and comment is not null
            and schema_name || '.' || table_name = $1
        order by column_index
        """,
        [table],
    ).fetchall()
    return meaning, columns
