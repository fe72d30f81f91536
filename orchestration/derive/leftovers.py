"""What stands in a layer's schema and no longer in the project: it is not published.

A model, a seed or an old version that was deleted, renamed or moved leaves its table or
view behind. `bookkeeping.relation` says what the project of the last run has, and which
schemas dbt made (dbt_project/macros/incremental.sql). Nothing drops what is left by
itself, least of all a refresh: a wrong branch would cost a state that takes long to
derive. Whoever asks for a state of today's rules drops it: a rebuild, a replay that is
applied, a repair, or `warehouse leftovers --drop`.
"""

from dataclasses import dataclass

import duckdb

from ingest.store.database import sql_name, sql_text, transaction
from orchestration.derive import dbt_project

# What dbt neither makes nor drops (dbt_project/macros/generate_schema_name.sql).
RESERVED = (
    *("raw", "bookkeeping", "outbox", "previous", "published", "replay"),
    *("differing", "main"),
)


@dataclass(frozen=True, order=True)
class Leftover:
    """A table or view that the project no longer has."""

    schema: str
    name: str
    is_table: bool

    @property
    def kind(self) -> str:
        return "table" if self.is_table else "view"

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


def current_database(connection: duckdb.DuckDBPyConnection) -> str:
    [[name]] = connection.execute("select current_database()").fetchall()
    return str(name)


def is_known(connection: duckdb.DuckDBPyConnection, database: str) -> bool:
    """Whether a run has noted there what the project has; earlier versions did not."""
    return bool(
        connection.execute(
            "from duckdb_tables() where database_name = $1 "
            "and schema_name = 'bookkeeping' and table_name = 'relation'",
            [database],
        ).fetchall()
    )


def _noted(database: str) -> str:
    return sql_name(database, "bookkeeping", "relation")


def of_project(
    connection: duckdb.DuckDBPyConnection, database: str, name: str = "table_name"
) -> str:
    """The condition on DuckDB's lists of tables, views and columns that leaves what the
    project has, bookkeeping included; `name` is the column with the relation's name."""
    if not is_known(connection, database):
        layers = (sql_text(layer) for layer in dbt_project.layers())
        return f"schema_name in ('bookkeeping', {', '.join(layers)})"
    return (
        f"(schema_name = 'bookkeeping' or (schema_name, {name}) in (select "
        f"(schema_name, name) from {_noted(database)} where in_project))"
    )


def find(
    connection: duckdb.DuckDBPyConnection,
    database: str | None = None,
    project: str | None = None,
) -> list[Leftover]:
    """What is left over in a database; `project` is the one that a run of today's
    project noted its relations in, the same if not given."""
    database = database or current_database(connection)
    project = project or database
    if not is_known(connection, project):
        return []
    owned = {*dbt_project.layers()}
    for noted in {database, project}:
        if is_known(connection, noted):
            rows = connection.execute(
                f"select distinct schema_name from {_noted(noted)}"
            ).fetchall()
            owned |= {schema for (schema,) in rows}
    rows = connection.execute(
        f"""
        with found as (
            select schema_name, table_name as name, true as is_table
            from duckdb_tables() where database_name = $1 and not temporary
            union all
            select schema_name, view_name as name, false as is_table
            from duckdb_views() where database_name = $1 and not temporary
        )
        select found.schema_name, found.name, found.is_table
        from found
        anti join (
            from {_noted(project)} where in_project
        ) as project using (schema_name, name)
        where list_contains($2, found.schema_name)
        order by all
        """,
        [database, sorted(owned - {*RESERVED})],
    ).fetchall()
    return [Leftover(*row) for row in rows]


def drop(
    connection: duckdb.DuckDBPyConnection, leftovers: list[Leftover] | None = None
) -> list[Leftover]:
    """Drops what is left over, in one transaction; what that was."""
    with transaction(connection):
        found = find(connection) if leftovers is None else leftovers
        remove(connection, found)
    return found


def remove(connection: duckdb.DuckDBPyConnection, leftovers: list[Leftover]) -> None:
    """Drops them, and the schemas that are then empty, in the caller's transaction."""
    for leftover in leftovers:
        name = sql_name(leftover.schema, leftover.name)
        connection.execute(f"drop {leftover.kind} if exists {name}")
    for schema in {leftover.schema for leftover in leftovers}:
        left = connection.execute(
            "select 1 from duckdb_columns() "
            "where database_name = current_database() and schema_name = $1 limit 1",
            [schema],
        ).fetchall()
        if not left and schema not in dbt_project.layers():
            connection.execute(f"drop schema if exists {sql_name(schema)}")
