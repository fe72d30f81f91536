"""What stands in a snapshot's file: written whole, or as the changes to the one before.

A snapshot costs what changed: the file before is copied, and the rows that a newer load
touched are replaced. Then every table is compared with the warehouse's, by the number
of its rows and the sum of their hashes; one that differs, as a replay or a repair makes
it, is copied whole.

Some views of the warehouse are tables here, made with each publication: their models
say so (`published_as: table`), because they cost much to read.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.errors import first_line
from ingest.store.database import sql_name, sql_path, transaction
from orchestration.derive import leftovers
from serving import published

# Names in the connection that publishes.
LIVE = "_live_"
BEFORE = "_before_"
NEW = "_new_"

# What DuckDB 2.0 writes by itself no earlier client reads: no BI tool, no browser. A
# snapshot is no larger for it.
STORAGE_VERSION = "v1.0.0"

# After so many changes to one file it is written whole: what is inserted bit by bit is
# larger and slower to read.
_MOST_CHANGES = 100

_EVENT_COLUMNS = (
    *("event_id", "event_key", "type", "schema_version", "user_id", "class_id"),
    *("course_id", "occurred_at", "line", "received_at", "load_id", "file"),
    "line_number",
)
EVENT_COLUMNS = ", ".join(_EVENT_COLUMNS)

# A line may hold anything; `warehouse dead-letters show` shows it.
_RAW = {
    "load": "*",
    "catalogue": "*",
    "class_skill": "*",
    "dead_letter": "* exclude (line)",
}

_FOR_A_RESTORE = {
    "tombstone": "from {live}.raw.tombstone",
    "retried_letter": "from {live}.raw.retried_letter where retry_load_id <= {load_id}",
    "discarded_letter": "select * exclude (line) from {live}.raw.discarded_letter "
    "where load_id <= {load_id}",
}

# Of a snapshot's schemas those that dbt did not make.
_NOT_DERIVED = "schema_name in ('raw', 'published')"


@dataclass(frozen=True)
class SnapshotInfo:
    """What a snapshot says of itself; `files` are the Parquet files of its events, in
    the folder `generation`."""

    load_id: int
    published_at: datetime
    state: str
    generation: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    """A table that is copied, and the query for what is to stand in it. `key` are the
    columns that a row of an incremental model is known by."""

    schema: str
    name: str
    rows: str
    key: str | None = None

    @property
    def new(self) -> str:
        return f'{NEW}."{self.schema}"."{self.name}"'


def write(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    info: SnapshotInfo,
    before: tuple[Path, int] | None,
) -> None:
    """Writes the snapshot into the new file `path`; `before` are the file of the one
    before, which is attached as `BEFORE`, and the load that it stands at."""
    changes = _changes(connection) if before else None
    if before is not None and changes is not None:
        try:
            _write_changes(connection, path, info, *before, changes + 1)
        except duckdb.Error:
            # A block of the file before is damaged, say: only one that is written whole
            # reads nothing of it.
            with contextlib.suppress(duckdb.Error):
                connection.execute(f"detach {NEW}")
            for file in (path, path.with_name(f"{path.name}.wal")):
                file.unlink(missing_ok=True)
        else:
            return
    tables = _tables(connection, info.load_id)
    connection.execute(
        f"attach {sql_path(path)} as {NEW} (storage_version '{STORAGE_VERSION}')"
    )
    with transaction(connection):
        for schema in _schemas(connection):
            connection.execute(f'create schema {NEW}."{schema}"')
        for table in tables:
            _copy(connection, table)
        _describe(connection, info, changes=0)
        _make_events(connection, info)
    _finish(connection)


def _write_changes(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    info: SnapshotInfo,
    before: Path,
    since: int,
    changes: int,
) -> None:
    tables = _tables(connection, info.load_id)
    shutil.copyfile(before, path)
    connection.execute(f"attach {sql_path(path)} as {NEW}")
    with transaction(connection):
        for table in tables:
            _take_changes(connection, table, since)
        _describe(connection, info, changes)
        _make_events(connection, info)
    _finish(connection)


def _finish(connection: duckdb.DuckDBPyConnection) -> None:
    _make_views(connection)
    _comment(connection)
    connection.execute(f"checkpoint {NEW}")
    connection.execute(f"detach {NEW}")


def _tables(connection: duckdb.DuckDBPyConnection, load_id: int) -> list[_Table]:
    derived = connection.execute(
        "select schema_name, table_name from duckdb_tables() "
        f"where database_name = '{LIVE}' "
        f"and {leftovers.of_project(connection, LIVE)} "
        "union all select schema_name, view_name from duckdb_views() "
        f"where database_name = '{LIVE}' and {_is_table(connection)}"
    ).fetchall()
    try:
        keys = dict(
            connection.execute(
                f"select model, row_key from {LIVE}.bookkeeping.watermark"
            ).fetchall()
        )
    except duckdb.BinderException:
        keys = {}  # an earlier version made it
    return [
        *(
            _Table(
                "raw",
                name,
                f"select {columns} from {LIVE}.raw.{name} where load_id <= {load_id}",
            )
            for name, columns in _RAW.items()
        ),
        *(
            _Table(
                schema,
                name,
                f'select * from {LIVE}."{schema}"."{name}"',
                keys.get(name),
            )
            for schema, name in derived
        ),
    ]


def _is_table(connection: duckdb.DuckDBPyConnection) -> str:
    """The condition on DuckDB's list of the warehouse's views that leaves those that
    are tables in a snapshot."""
    is_noted = connection.execute(
        "from duckdb_tables() where database_name = $1 "
        "and schema_name = 'bookkeeping' and table_name = 'published_table'",
        [LIVE],
    ).fetchall()
    if not is_noted:  # an earlier version made it
        return "false"
    return (
        f"({leftovers.of_project(connection, LIVE, 'view_name')} "
        "and (schema_name, view_name) in (select (schema_name, table_name) "
        f"from {LIVE}.bookkeeping.published_table))"
    )


def _changes(connection: duckdb.DuckDBPyConnection) -> int | None:
    """How often the file before was changed since it was written whole; None if it is
    time to do so again, another version wrote it, or its tables are other ones now."""
    try:
        [[changes, files]] = connection.execute(
            f"select changes, (select count(*) from {BEFORE}.published.event_file) "
            f"from {BEFORE}.published.snapshot"
        ).fetchall()
    except duckdb.Error:
        return None
    if changes >= _MOST_CHANGES or files == 0:
        return None
    is_alike = _shape(connection, LIVE) == _shape(connection, BEFORE)
    return int(changes) if is_alike else None


def _shape(
    connection: duckdb.DuckDBPyConnection, database: str
) -> list[tuple[str, ...]]:
    """The columns of all tables and views that a snapshot has, and which are tables. Of
    the warehouse those that are to be in one; of the one before, those that are."""
    names = ", ".join(f"'{table}'" for table in _RAW)
    raw = f"schema_name = 'raw' and table_name in ({names})"
    derived = (
        leftovers.of_project(connection, LIVE)
        if database == LIVE
        else f"not {_NOT_DERIVED}"
    )
    is_table = _is_table(connection) if database == LIVE else "false"
    return connection.execute(
        f"""
        select schema_name, table_name, column_name, data_type
        from duckdb_columns()
        where
            database_name = '{database}'
            and ({derived} or ({raw} and column_name != 'line'))
        union all
        select schema_name, table_name, '', 'table' from duckdb_tables()
        where database_name = '{database}' and ({derived} or {raw})
        union all
        select schema_name, view_name, '', 'table' from duckdb_views()
        where database_name = '{database}' and {is_table}
        order by all
        """
    ).fetchall()


def _schemas(connection: duckdb.DuckDBPyConnection) -> list[str]:
    derived = connection.execute(
        "select distinct schema_name from duckdb_columns() "
        f"where database_name = '{LIVE}' and {leftovers.of_project(connection, LIVE)}"
    ).fetchall()
    return ["raw", "published", *(schema for (schema,) in derived)]


def _copy(connection: duckdb.DuckDBPyConnection, table: _Table) -> None:
    # A learner's rows stand together: what is asked of one reads a few of them.
    order = f" order by {table.key}" if table.key else ""
    connection.execute(f"create or replace table {table.new} as {table.rows}{order}")


def _take_changes(
    connection: duckdb.DuckDBPyConnection, table: _Table, since: int
) -> None:
    """Makes the copied table as the warehouse's is; it stands at the load `since`."""
    newer = f"from ({table.rows}) where load_id > {since}"
    if table.key:
        connection.execute(
            f"delete from {table.new} "
            f"where ({table.key}) in (select ({table.key}) {newer})"
        )
        connection.execute(f"insert into {table.new} by name {newer}")
    elif table.schema == "raw":
        connection.execute(f"insert into {table.new} by name {newer}")
    if _content(connection, f"({table.rows})") != _content(connection, table.new):
        _copy(connection, table)


def _content(
    connection: duckdb.DuckDBPyConnection, rows: str
) -> list[tuple[int, int | None]]:
    """Equal if the rows are the same, in whatever order."""
    return connection.execute(
        f"select count(*), sum(hash(found)) from {rows} as found"
    ).fetchall()


def unlike_the_warehouse(
    connection: duckdb.DuckDBPyConnection, info: SnapshotInfo, *, is_current: bool
) -> Iterator[str]:
    """What the snapshot `BEFORE` has otherwise than the warehouse, read to the last
    byte. Derived tables are compared if it `is_current`, and else only read."""
    newest = f"load_id <= {info.load_id}"
    raw = f"(select {EVENT_COLUMNS} from {LIVE}.raw.lms_event where {{}})"
    published = f"(select {EVENT_COLUMNS} from {BEFORE}.raw.lms_event)"
    if info.files and _difference(connection, raw.format(newest), published):
        # One by one, which takes longer, to say which.
        for file in info.files:
            month, name = file.split("/")[-2:]
            first, last = name.removesuffix(".parquet").split("-")[1:]
            rows = raw.format(
                f"load_id between {first} and {last} "
                f"and date_trunc('month', occurred_at) = date '{month}-01'"
            )
            path = info.generation.parent / file
            read = f"read_parquet({sql_path(path)}, hive_partitioning = false)"
            there = f"(select {EVENT_COLUMNS} from {read})"
            if reason := _difference(connection, rows, there):
                yield f"{path}: {reason}"
    for table in _tables(connection, info.load_id):
        name = f'"{table.schema}"."{table.name}"'
        rows = f"({table.rows})" if is_current else f"{BEFORE}.{name}"
        if reason := _difference(connection, rows, f"{BEFORE}.{name}"):
            yield f"{table.schema}.{table.name}: {reason}"


def _difference(
    connection: duckdb.DuckDBPyConnection, rows: str, published: str
) -> str | None:
    expected = _content(connection, rows)
    try:
        there = _content(connection, published)
    except duckdb.Error as error:
        return f"damaged ({first_line(error)})"
    return None if there == expected else "other rows than the warehouse has"


def _describe(
    connection: duckdb.DuckDBPyConnection, info: SnapshotInfo, changes: int
) -> None:
    connection.execute(
        f"create or replace table {NEW}.published.event_file as "
        "select unnest($1::varchar[]) as file",
        [list(info.files)],
    )
    connection.execute(
        f"""
        create or replace table {NEW}.published.snapshot as
        select
            $load_id::bigint as load_id,
            $published_at::timestamp as published_at,
            $state as state,
            $generation as generation,
            (select count(*) from {LIVE}.raw.tombstone) as tombstones,
            $changes::integer as changes,
            $format::integer as format
        """,
        {
            "load_id": info.load_id,
            "published_at": info.published_at,
            "state": info.state,
            "generation": info.generation.name,
            "changes": changes,
            "format": published.FORMAT,
        },
    )
    # What readers need not have, and a restore from the snapshot does.
    for name, rows in _FOR_A_RESTORE.items():
        connection.execute(
            f"create or replace table {NEW}.published.{name} as "
            f"{rows.format(live=LIVE, load_id=info.load_id)}"
        )


def _make_events(connection: duckdb.DuckDBPyConnection, info: SnapshotInfo) -> None:
    columns = EVENT_COLUMNS.replace(
        " line,", " line, json_extract(line, '$.payload') as payload,"
    )
    if info.files:
        folder = info.generation.parent
        names = ", ".join(sql_path(folder / file) for file in info.files)
        source = f"read_parquet([{names}], hive_partitioning = false)"
        connection.execute(
            f"create or replace view {NEW}.raw.lms_event as "
            f"select {columns} from {source}"
        )
    else:
        connection.execute(
            f"create table {NEW}.raw.lms_event as "
            f"select {columns} from {LIVE}.raw.lms_event limit 0"
        )


def _make_views(connection: duckdb.DuckDBPyConnection) -> None:
    """A view names tables and views without their database: the new one's, then. Each
    is made after those that it reads, an order that DuckDB does not keep.

    What they were made from is kept in the snapshot: DuckDB prints some of them
    otherwise after it has read what it printed (`CROSS JOIN`, `TIMESTAMP_US`).
    """
    to_make = _sources_of_views(connection)
    if _made_from(connection) == to_make:
        return
    connection.execute(f"use {NEW}")
    for schema, view in connection.execute(
        "select schema_name, view_name from duckdb_views() "
        f"where database_name = '{NEW}' and not {_NOT_DERIVED} and not internal"
    ).fetchall():
        connection.execute(f'drop view "{schema}"."{view}"')
    waiting = to_make
    while waiting:
        left = []
        for sql in waiting:
            try:
                connection.execute(sql)
            except duckdb.CatalogException as error:
                left.append(sql)
                reason = error
        if len(left) == len(waiting):
            raise reason
        waiting = left
    connection.execute("use memory")
    connection.execute(
        f"create or replace table {NEW}.published.view_source as "
        "select unnest($1::varchar[]) as sql",
        [to_make],
    )


def _sources_of_views(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """How the warehouse makes the views that a snapshot has, sorted."""
    made = leftovers.of_project(connection, LIVE, "view_name")
    found = connection.execute(
        "select sql from duckdb_views() where database_name = $1 and not internal "
        f"and {made} and not {_is_table(connection)} order by sql",
        [LIVE],
    ).fetchall()
    return [sql for (sql,) in found]


def _made_from(connection: duckdb.DuckDBPyConnection) -> list[str] | None:
    """The same of the views that the new snapshot has from the one before."""
    try:
        found = connection.execute(
            f"select sql from {NEW}.published.view_source order by sql"
        ).fetchall()
    except duckdb.CatalogException:
        return None  # it has none yet, or an earlier version made it
    return [sql for (sql,) in found]


def _comment(connection: duckdb.DuckDBPyConnection) -> None:
    """Says what each table, view and column means, where it does not say it yet."""
    try:
        found = connection.execute(
            f"""
            with

            relations as (

                select
                    'table' as kind, schema_name, table_name as name, null as part,
                    comment
                from duckdb_tables() where database_name = '{NEW}'
                union all
                select 'view', schema_name, view_name, null, comment
                from duckdb_views() where database_name = '{NEW}'
                union all
                select 'column', schema_name, table_name, column_name, comment
                from duckdb_columns() where database_name = '{NEW}'

            )

            select
                relations.kind, relations.schema_name, relations.name, relations.part,
                meant.description
            from relations
            inner join {LIVE}.bookkeeping.description as meant
                on
                    relations.schema_name = meant.schema_name
                    and relations.name = meant.relation_name
                    and relations.part is not distinct from meant.column_name
            where relations.comment is distinct from meant.description
            """
        ).fetchall()
    except duckdb.CatalogException:
        return  # an earlier version made the warehouse
    for kind, schema, name, part, description in found:
        target = sql_name(NEW, schema, name, *([part] if part else []))
        text = description.replace("'", "''")
        connection.execute(f"comment on {kind} {target} is '{text}'")
