"""Which keys make a model fail: its own SQL, tried again on parts of what is new.

A database's error names a value, seldom whose it is. So after a model has failed over
a value, its compiled SQL runs in a scratch file for ever fewer (user, class), until
those are found that fail by themselves. The warehouse is only read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ingest.store.database import transaction
from orchestration.shadow import shadow
from orchestration.shadow.shadow import LIVE

# Errors over a value; a full disk or wrong SQL is no key's fault.
_OVER_A_VALUE = ("Conversion Error", "Invalid Input Error", "Out of Range Error")

# A trial of a million takes some 15 s in all.
LARGEST_DELTA = 1_000_000
MOST_KEYS = 3


@dataclass(frozen=True)
class FailingKeys:
    """Keys that fail by themselves, and whether all others pass without them."""

    keys: tuple[tuple[str, str], ...]
    tried: int
    others_pass: bool

    def __str__(self) -> str:
        named = "; ".join(
            f"user_id {user!r}, class_id {in_class!r}" for user, in_class in self.keys
        )
        others = self.tried - len(self.keys)
        return f"it fails on {named} ({others:,} other keys " + (
            "pass)" if self.others_pass else "with more that fail)"
        )


def find(
    warehouse_path: Path, compiled_code: str | None, message: str | None
) -> FailingKeys | None:
    """The keys over which a model failed that has this SQL and this error.

    None where the error is not about a value, where there is too much to try, or where
    no key fails by itself.
    """
    if not compiled_code or not any(kind in (message or "") for kind in _OVER_A_VALUE):
        return None
    with shadow.folder(warehouse_path) as folder:
        probe = folder / "probe.duckdb"
        with shadow.opened(probe, warehouse_path) as connection:
            return _find(connection, warehouse_path.stem, folder, compiled_code)


def _find(
    connection: duckdb.DuckDBPyConnection, database: str, folder: Path, sql: str
) -> FailingKeys | None:
    # Models say from which load on they read.
    place = min(map(int, re.findall(r"load_id > (\d+)", sql)), default=0)
    connection.execute(
        f"""
        create table new_event as
        select * exclude (payload) from {LIVE}.raw.lms_event
        where load_id > {place:d}
        limit {LARGEST_DELTA + 1:d}
        """
    )
    connection.execute(
        """
        create table key as
        select
            row_number() over (order by user_id, class_id) - 1 as number,
            user_id,
            class_id
        from (select distinct user_id, class_id from new_event)
        """
    )
    [[events, keys]] = connection.execute(
        "select (select count(*) from new_event), (select count(*) from key)"
    ).fetchall()
    if events > LARGEST_DELTA:
        return None
    trial = _Trial(connection, database, folder, sql)
    found = trial.failing(range(keys))
    if not found:
        return None
    others = sorted(set(range(keys)) - set(found))
    return FailingKeys(
        tuple(
            connection.execute(
                """
                select user_id, class_id from key
                where number in (select unnest($1)) order by number
                """,
                [found],
            ).fetchall()
        ),
        tried=keys,
        others_pass=not trial.fails(others),
    )


class _Trial:
    """A database of the warehouse's name, in which the SQL sees some keys only."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        database: str,
        folder: Path,
        sql: str,
    ) -> None:
        self._connection = connection
        self._sql = sql
        path = str(folder / "trial.duckdb").replace("'", "''")
        self._home = connection.execute("select current_database()").fetchall()[0][0]
        quoted = database.replace('"', '""')
        connection.execute(f"attach '{path}' as \"{quoted}\"")
        self._trial = f'"{quoted}"'
        tables = connection.execute(
            f"""
            select
                schema_name, table_name, list(column_name),
                any_value(column_default) filter (column_name = 'payload')
            from duckdb_columns()
            where
                database_name = '{LIVE}'
                and schema_name in ('raw', 'staging', 'projections', 'signals')
                and (schema_name, table_name) in (
                    select (schema_name, table_name) from duckdb_tables()
                    where database_name = '{LIVE}'
                )
            group by all
            """
        ).fetchall()
        self._tables: list[tuple[str, str, list[str]]] = []
        views = []
        for schema, table, columns, payload in tables:
            name = f'"{schema}"."{table}"'
            connection.execute(f'create schema if not exists {self._trial}."{schema}"')
            if "user_id" not in columns:
                connection.execute(
                    f"create view {self._trial}.{name} as from {LIVE}.{name}"
                )
                continue
            key = [column for column in ("user_id", "class_id") if column in columns]
            if payload is None:
                self._tables.append((f"{self._trial}.{name}", f"{LIVE}.{name}", key))
                continue
            # The payload is read by who reads it, not by who copies the row.
            store = f"{self._trial}.{schema}.stored_event"
            self._tables.append((store, f"{self._home}.main.new_event", key))
            views.append(
                f"create view {self._trial}.{name} as "
                f"select *, {payload} as payload from {store}"
            )
        self._choose([])
        for view in views:
            connection.execute(view)
        self._make_views()

    def _make_views(self) -> None:
        """Those between raw and the models, each after what it reads."""
        todo = [
            sql
            for (sql,) in self._connection.execute(
                f"""
                select sql from duckdb_views()
                where
                    database_name = '{LIVE}'
                    and schema_name in ('staging', 'catalogue')
                """
            ).fetchall()
        ]
        self._connection.execute(f"use {self._trial}")
        for _ in range(len(todo)):
            waiting = []
            for sql in todo:
                try:
                    self._connection.execute(sql)
                except duckdb.CatalogException:
                    waiting.append(sql)
            todo = waiting
        self._connection.execute(f"use {self._home}")

    def _choose(self, numbers: Sequence[int]) -> None:
        self._connection.execute(
            """
            create or replace temp table chosen as
            select user_id, class_id from key where number in (select unnest($1))
            """,
            [list(numbers)],
        )
        with transaction(self._connection):
            for target, source, key in self._tables:
                self._refill(target, source, key)

    def _refill(self, target: str, source: str, key: Sequence[str]) -> None:
        columns = ", ".join(key)
        self._connection.execute(
            f"""
            create or replace table {target} as
            select * from {source}
            where ({columns}) in (select {columns} from chosen)
            """
        )

    def fails(self, numbers: Sequence[int]) -> bool:
        if not numbers:
            return False
        self._choose(numbers)
        try:
            self._connection.execute(
                f"create or replace temp table tried as {self._sql}"
            )
        except duckdb.Error as error:
            return any(kind in f"{error}" for kind in _OVER_A_VALUE)
        return False

    def failing(self, numbers: Sequence[int]) -> list[int]:
        """The first of the keys that fail by themselves."""
        found: list[int] = []
        todo = [numbers]
        while todo and len(found) < MOST_KEYS:
            part = todo.pop()
            if self.fails(part):
                if len(part) == 1:
                    found.append(part[0])
                else:
                    middle = len(part) // 2
                    todo += [part[middle:], part[:middle]]
        return found
