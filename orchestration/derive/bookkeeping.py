"""What a refresh remembers: the state that it left, and what its tests have seen.

`bookkeeping.refreshed` has the fingerprints of the last refresh that succeeded as a
whole: of the derived state, of what the schemas hold, and of the dbt project. While
state and project hold and no load came, there is nothing to do; while schemas and
project hold, views and seeds need not be made again. `bookkeeping.checked_load` has, by
model, up to which load and of which rule that refresh had tested the rows: the tests of
the next look at what came after (dbt_project/macros/tests.sql). dbt makes these tables,
and moves a model's watermark in `bookkeeping.watermark` with its rows
(dbt_project/macros/incremental.sql).
"""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import duckdb

from ingest.store import formats
from ingest.store.database import sql_name, sql_text, transaction
from orchestration.derive import dbt_project, leftovers

# By the number of the bookkeeping's format. What a migration drops is derived again.
# 1: where versions without a number kept these.
_MIGRATIONS = {
    1: """
        drop table if exists staging.consumed_load;
        drop table if exists staging.checked_load;
        drop table if exists staging.refreshed;
        drop table if exists signals.class_signal;
        drop table if exists signals.course_signal;
        drop table if exists signals.user_signal_total;
        drop table if exists signals.badge_award;
        drop view if exists staging.stg_catalogue_snapshot;
        drop view if exists staging.stg_catalogue_class;
        drop view if exists staging.stg_catalogue_course_class;
        drop view if exists projections.prj_class;
        drop view if exists projections.prj_course_step;
        drop view if exists projections.prj_course_activity;
    """
}

_ENGINE = ("dbt-core", "dbt-duckdb", "duckdb")


def carry_over(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes what an earlier version derived ready for today's dbt project."""
    number = formats.numbers(connection).get("bookkeeping", 0)
    formats.carry_over(connection, "bookkeeping", number, _MIGRATIONS)


def made_fingerprint(connection: duckdb.DuckDBPyConnection, database: str) -> str:
    """Names the definitions of all tables and views, and the seeds' contents."""

    def chosen(name: str) -> str:
        made = leftovers.of_project(connection, database, name)
        of = f"database_name = {sql_text(database)}"
        return f"{of} and (schema_name = 'raw' or {made})"

    seeds = ",".join(
        f"(select string_agg(seed::varchar, ';' order by seed::varchar) "
        f"from {sql_name(database, *seed.split('.'))} as seed)"
        for seed in dbt_project.seeds()
    )
    [[found]] = connection.execute(
        f"""
        select md5(concat_ws(
            '|',
            (
                select string_agg(sql, ';' order by schema_name, view_name)
                from duckdb_views() where {chosen("view_name")}
            ),
            (
                select string_agg(sql, ';' order by schema_name, table_name)
                from duckdb_tables() where {chosen("table_name")}
            ),
            {seeds}
        ))
        """
    ).fetchall()
    return str(found)


def state_fingerprint(connection: duckdb.DuckDBPyConnection, database: str) -> str:
    """Names the state of what is derived in a database: equal ones answer alike.

    Read from the bookkeeping, not from the rows: every change of derived rows (by a
    refresh, a replay, a repair) leaves another `consumed_at` there; dead
    letters, erasures and seeds change without one.
    """
    name = sql_name(database)
    [[found]] = connection.execute(
        f"""
        select md5(concat_ws(
            '|',
            $1,
            (
                select string_agg(watermark::varchar, ',' order by model)
                from {name}.bookkeeping.watermark as watermark
            ),
            (
                select concat_ws(' ', count(*), sum(attempts), max(load_id))
                from {name}.raw.dead_letter
            ),
            (select count(*) from {name}.raw.tombstone)
        ))
        """,
        [made_fingerprint(connection, database)],
    ).fetchall()
    return str(found)


def project_fingerprint(files: Iterable[Path]) -> str:
    """Names what the dbt project says, and who runs it."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file}\n".encode() + file.read_bytes())
    digest.update(" ".join(version(package) for package in _ENGINE).encode())
    return digest.hexdigest()


def is_up_to_date(connection: duckdb.DuckDBPyConnection, project: str) -> bool:
    """Whether the last refresh succeeded, with this project, and nothing came since."""
    if not _is_there(connection, "refreshed"):
        return False
    [[newest, oldest_watermark]] = connection.execute(
        """
        select
            (select coalesce(max(load_id), 0) from raw.load),
            (select min(load_id) from bookkeeping.watermark)
        """
    ).fetchall()
    if newest != oldest_watermark:
        return False
    try:
        state = state_fingerprint(connection, _database(connection))
    except duckdb.CatalogException:
        return False
    found = connection.execute("select state, project from bookkeeping.refreshed")
    return found.fetchall() == [(state, project)]


def views_are_unchanged(connection: duckdb.DuckDBPyConnection, project: str) -> bool:
    """Whether the last refresh that succeeded was of this project, and all tables and
    views are still as it made them."""
    if not _is_there(connection, "refreshed"):
        return False
    try:
        made = made_fingerprint(connection, _database(connection))
        found = connection.execute("select made, project from bookkeeping.refreshed")
        return found.fetchall() == [(made, project)]
    except (duckdb.CatalogException, duckdb.BinderException):
        return False  # something is not there, or an earlier version made it


def forget_checks(
    connection: duckdb.DuckDBPyConnection, *, of_other_than: str = ""
) -> None:
    """The next refresh tests every row. With `of_other_than`, only if the last one was
    of another project than that: other models or other tests."""
    if (
        _is_there(connection, "refreshed")
        and connection.execute(
            "from bookkeeping.refreshed where project != $1", [of_other_than]
        ).fetchall()
    ):
        connection.execute("delete from bookkeeping.checked_load")


def remember_success(connection: duckdb.DuckDBPyConnection, project: str) -> None:
    """After a refresh of everything that succeeded, with its tests."""
    with transaction(connection):
        connection.execute("delete from bookkeeping.checked_load")
        connection.execute(
            "insert into bookkeeping.checked_load "
            "select model, load_id, rule_fingerprint from bookkeeping.watermark"
        )
        connection.execute("delete from bookkeeping.refreshed")
        database = _database(connection)
        connection.execute(
            "insert into bookkeeping.refreshed (state, made, project) "
            "values ($1, $2, $3)",
            [
                state_fingerprint(connection, database),
                made_fingerprint(connection, database),
                project,
            ],
        )


def _is_there(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    found = connection.execute(
        "from duckdb_tables() where database_name = current_database() "
        "and schema_name = 'bookkeeping' and table_name = $1",
        [table],
    ).fetchall()
    return bool(found)


def _database(connection: duckdb.DuckDBPyConnection) -> str:
    [[name]] = connection.execute("select current_database()").fetchall()
    return str(name)
