"""A copy of the snapshot in which no learner's id stands, to hand to others.

It has the tables of the snapshot, and the public views as tables, with keyed hashes in
the place of learners' ids, event ids and signal ids (a signal's id is made of the
learner's). Of the events it has the numbers of their payloads: no text that a sender
chose, no line, no file name. It has no dead letters, and "now" is when it was written.
The dashboard shows it like any other snapshot.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.store.database import sql_path
from ingest.store.files import read_regular
from serving.access import Scope
from serving.reader import Follower

# Their rows hold what senders wrote; what is taken over of them is said here.
_RAW = {
    "load": "* replace (concat('load ', load_id) as file, '' as file_sha256)",
    "catalogue": "*",
    "class_skill": "*",
    "dead_letter": "*",
    "lms_event": """
        hashed(event_id) as event_id,
        type, schema_version, hashed(user_id) as user_id, class_id, course_id,
        occurred_at,
        cast(json_object('payload', numbers(payload)) as varchar) as line,
        numbers(payload) as payload,
        received_at, load_id, concat('load ', load_id) as file, line_number
    """,
}
_PAYLOAD = (
    *("position", "position_sec", "duration", "duration_sec", "playback_rate"),
    *("score", "max_score", "passed"),
)
_HASHED = ("user_id", "signal_id", "event_id")
_VIEWS_KEPT = ("staging", "catalogue")
# The others are for the next publication and for a restore; why a letter was discarded
# may name a learner.
_PUBLISHED = ("snapshot",)


@dataclass(frozen=True)
class Written:
    learners: int
    bytes: int


def read_key(path: Path | None) -> bytes:
    """The key in the file, or a new one that nobody keeps. Raises `WarehouseError`."""
    if path is None:
        return secrets.token_bytes(32)
    try:
        key = read_regular(path).strip()
    except OSError as error:
        raise WarehouseError(f"{path}: cannot be read ({error.strerror})") from error
    if len(key) < 16:
        raise WarehouseError(f"{path}: a key has 16 bytes or more; this has {len(key)}")
    return key


def write(published: Path, path: Path, key: bytes, *, now: str | None) -> Written:
    """Writes the copy; it is whole or not there. Raises `WarehouseError`."""
    if path.exists():
        raise WarehouseError(f"{path}: is there already; give another --output")
    with Follower(published).reader(Scope()) as reader:
        time_zone = reader.time_zone
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with _attached(published.resolve(), unfinished, key, now) as connection:
            learners = _write(connection, time_zone)
        os.replace(unfinished, path)
    except (duckdb.Error, OSError) as error:
        raise WarehouseError(
            f"{path}: cannot be written ({first_line(error)})"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return Written(learners, path.stat().st_size)


@contextlib.contextmanager
def _attached(
    source: Path, copy: Path, key: bytes, now: str | None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The snapshot as `source`, the new file as `copy`, and what rows go through."""
    copy.unlink(missing_ok=True)
    numbers = ", ".join(
        f"'{name}', case when json_type(payload, '$.{name}') in "
        "('DOUBLE', 'BIGINT', 'UBIGINT', 'BOOLEAN') "
        f"then json_extract(payload, '$.{name}') end"
        for name in _PAYLOAD
    )
    with contextlib.closing(duckdb.connect()) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("set enable_progress_bar = false")
        if now:
            connection.execute(f"set variable now = '{now}'")
        connection.execute(f"attach {sql_path(source)} as source (read_only)")
        connection.execute(f"attach {sql_path(copy)} as copy")
        connection.execute(
            "create temp macro hashed(id) as "
            f"left(sha256(concat('{key.hex()}', ':', id)), 32)"
        )
        connection.execute(
            f"create temp macro numbers(payload) as json_object({numbers})"
        )
        # Views name their tables without a database.
        connection.execute("use source")
        yield connection


def _write(connection: duckdb.DuckDBPyConnection, time_zone: str) -> int:
    columns = connection.execute(
        """
        select columns.schema_name, columns.table_name, columns.column_name,
            columns.data_type, views.view_name is not null
        from duckdb_columns() as columns
        left join duckdb_views() as views
            on
                views.database_name = columns.database_name
                and views.schema_name = columns.schema_name
                and views.view_name = columns.table_name
        where columns.database_name = 'source' and not columns.internal
        order by columns.schema_name, columns.table_name, columns.column_index
        """
    ).fetchall()
    relations: dict[tuple[str, str, bool], list[str]] = {}
    for schema, table, name, kind, is_view in columns:
        relations.setdefault((schema, table, is_view), []).extend(_column(name, kind))
    for schema in dict.fromkeys(schema for schema, _, _ in relations):
        connection.execute(f'create schema if not exists copy."{schema}"')
    for (schema, table, is_view), chosen in relations.items():
        if is_view and schema in _VIEWS_KEPT:
            continue
        if schema == "raw" and table not in _RAW:
            continue
        if schema == "published" and table not in _PUBLISHED:
            continue
        what = _RAW[table] if schema == "raw" else ", ".join(chosen)
        rows = "where false" if table == "dead_letter" else ""
        connection.execute(
            f'create table copy."{schema}"."{table}" as '
            f'select {what} from source."{schema}"."{table}" {rows}'
        )
    connection.execute(
        "create or replace table copy.published.snapshot as "
        "select *, $1 as time_zone from source.published.snapshot",
        [time_zone],
    )
    _make_views(connection)
    [[learners]] = connection.execute(
        "select count(distinct user_id) from copy.raw.lms_event"
    ).fetchall()
    connection.execute("checkpoint copy")
    connection.execute("detach copy")
    return int(learners)


def _column(name: str, kind: str) -> list[str]:
    """The expression for a column; none for one that could have an id inside."""
    quoted = f'"{name}"'
    if kind == "VARCHAR" and name.endswith(_HASHED):
        return [f"hashed({quoted}) as {quoted}"]
    if kind == "VARCHAR[]" and name.endswith("event_ids"):
        return [f"list_transform({quoted}, lambda id: hashed(id)) as {quoted}"]
    if name == "file" and kind == "VARCHAR":
        return [f"'' as {quoted}"]
    return [] if kind != "VARCHAR" and "VARCHAR" in kind else [quoted]


def _make_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Each after those that it reads; one that reads what is left out is left out."""
    kept = ", ".join(f"'{schema}'" for schema in _VIEWS_KEPT)
    to_make = [
        sql
        for (sql,) in connection.execute(
            "select sql from duckdb_views() where database_name = 'source' "
            f"and schema_name in ({kept})"
        ).fetchall()
    ]
    connection.execute("use copy")
    is_making = True
    while is_making:
        is_making = False
        for sql in list(to_make):
            with contextlib.suppress(duckdb.CatalogException, duckdb.BinderException):
                connection.execute(sql)
                to_make.remove(sql)
                is_making = True
    connection.execute("use source")
