"""The swap of a shadow into the live state, and the way back.

What a swap replaced stands in the schema `previous` until the next one: the tables of
the state as `"schema.name"`, so that none has the name of a table of the swap's own.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.store import database
from ingest.store.database import sql_name, transaction
from orchestration.derive import leftovers
from orchestration.derive.dbt_project import Relation
from orchestration.shadow.difference import columns, definition, quoted
from orchestration.shadow.shadow import SHADOW, Shadow
from orchestration.snapshot import snapshot

PREVIOUS = "previous"

# In a shadow of some learners: who they are.
LEARNERS = "replay.learner"

# Stands for a rule's fingerprint where rows of two rules stand in one table. It matches
# none, so the next refresh starts over.
MIXED_RULES = "mixed: a part was replayed by another rule"

_REPLAY = Relation("", PREVIOUS, "replay", "table", ())


@dataclass(frozen=True)
class Undone:
    """What was put back: rows by table, as before `scope` was applied."""

    scope: str
    applied_at: datetime
    tables: dict[str, int]


def state_of(made: Shadow, *, is_part: bool) -> list[Relation]:
    """What a swap replaces. A part leaves the seeds, which are no learner's."""
    return [
        relation
        for relation in made.relations
        if relation.kind != "view" and not (is_part and relation.kind == "seed")
    ]


def changed_views(
    connection: duckdb.DuckDBPyConnection, other: str, made: Shadow
) -> list[Relation]:
    """The views that the database of the connection has otherwise than the other."""
    return [
        relation
        for relation in made.relations
        if relation.kind == "view"
        and definition(connection, "current_database()", relation)
        != definition(connection, f"'{other}'", relation)
    ]


def swap(
    live: duckdb.DuckDBPyConnection, made: Shadow, scope: str, *, is_part: bool
) -> None:
    """Replaces the live state by the shadow's, in one transaction."""
    database.attach(live, made.path, SHADOW)
    with _transaction(live):
        live.execute(f"drop schema if exists {PREVIOUS} cascade")
        live.execute(f"create schema {PREVIOUS}")
        live.execute(
            f"""
            create table {PREVIOUS}.replay as
            select $1 as scope, $2 as is_part, $3::timestamp as applied_at
            """,
            [scope, is_part, database.utc_now()],
        )
        live.execute(
            f"""
            create table {PREVIOUS}.relation (
                position integer, schema varchar, name varchar, definition varchar
            )
            """
        )
        live.execute(f"create table {PREVIOUS}.watermark as from bookkeeping.watermark")
        if is_part:
            _swap_part(live, made)
        else:
            _swap_everything(live, made)
        live.execute(
            f"create table {PREVIOUS}.consumed_after as from bookkeeping.watermark"
        )


def _swap_part(live: duckdb.DuckDBPyConnection, made: Shadow) -> None:
    live.execute(f"create table {PREVIOUS}.learner as from {SHADOW}.{LEARNERS}")
    for relation in state_of(made, is_part=True):
        _keep(live, relation, is_part=True)
        _put(live, relation, f"{SHADOW}.{quoted(relation)}")
    live.execute(
        f"""
        update bookkeeping.watermark as live
        set rule_fingerprint = $1
        from {SHADOW}.bookkeeping.watermark as derived
        where
            live.model = derived.model
            and live.rule_fingerprint != derived.rule_fingerprint
        """,
        [MIXED_RULES],
    )


def _swap_everything(live: duckdb.DuckDBPyConnection, made: Shadow) -> None:
    # All tables, those without a difference too: what is kept is one whole state, which
    # can be put back whatever is refreshed in the meantime.
    for relation in state_of(made, is_part=False):
        _keep(live, relation)
        _make(live, relation, definition(live, f"'{SHADOW}'", relation))
        live.execute(f"insert into {quoted(relation)} from {SHADOW}.{quoted(relation)}")
    for relation in changed_views(live, SHADOW, made):
        _keep(live, relation)
        _make(live, relation, definition(live, f"'{SHADOW}'", relation))
    own = leftovers.current_database(live)
    left = leftovers.find(live, own, SHADOW)
    for leftover in left:
        _keep(live, Relation("", leftover.schema, leftover.name, "", ()))
    leftovers.remove(live, left)
    if leftovers.is_known(live, own):  # else the next refresh notes what there is
        live.execute(
            f"""
            update bookkeeping.relation set in_project = (schema_name, name) in (
                select (schema_name, name)
                from {SHADOW}.bookkeeping.relation where in_project
            )
            """
        )
        live.execute(
            f"""
            insert into bookkeeping.relation by name
            from {SHADOW}.bookkeeping.relation as made
            anti join bookkeeping.relation using (schema_name, name)
            """
        )
    live.execute("delete from bookkeeping.watermark")
    live.execute(
        f"insert into bookkeeping.watermark by name from {SHADOW}.bookkeeping.watermark"
    )


def undo(warehouse_path: Path) -> Undone:
    """Puts back what the last apply replaced, once.

    After an apply of everything it always can: the next refresh takes in what came
    since. After one of a part it can until a refresh has taken in more, which the old
    rows would lack. Raises `WarehouseError` where it cannot.
    """
    with database.open_for_reading(warehouse_path):
        pass  # says if there is none; opening for writing would make one
    with database.open_for_writing(warehouse_path) as live, _transaction(live):
        if not columns(live, "current_database()", _REPLAY):
            raise WarehouseError(
                f"{warehouse_path}: nothing to undo: nothing was applied, or that is "
                "undone already"
            )
        if _is_kept_otherwise(live):
            raise WarehouseError(
                f"{warehouse_path}: cannot undo: an earlier version applied that, and "
                f"named what it kept in the schema {PREVIOUS} otherwise; `warehouse "
                "rebuild` derives everything by today's rules"
            )
        [[scope, is_part, applied_at]] = live.execute(
            f"select scope, is_part, applied_at from {PREVIOUS}.replay"
        ).fetchall()
        if (
            is_part
            and live.execute(
                "select model, load_id, rule_fingerprint, consumed_at "
                "from bookkeeping.watermark except "
                "select model, load_id, rule_fingerprint, consumed_at "
                f"from {PREVIOUS}.consumed_after"
            ).fetchall()
        ):
            raise WarehouseError(
                f"{warehouse_path}: refreshed since {scope} was applied, so the rows "
                f"kept in the schema {PREVIOUS} lack what came since; `warehouse "
                "rebuild` derives everything by today's rules"
            )
        tables = _put_back(live, is_part=is_part)
        live.execute("delete from bookkeeping.watermark")
        live.execute(
            f"insert into bookkeeping.watermark by name from {PREVIOUS}.watermark"
        )
        live.execute(f"drop schema {PREVIOUS} cascade")
    snapshot.publish_again(warehouse_path)
    return Undone(scope, applied_at, tables)


def _kept(relation: Relation) -> str:
    """The table with the rows that the swap replaced, quoted."""
    return sql_name(PREVIOUS, relation.full_name)


def _is_kept_otherwise(live: duckdb.DuckDBPyConnection) -> bool:
    """Whether a table that was kept has not the name that it is looked for by."""
    return bool(
        live.execute(
            f"""
            from {PREVIOUS}.relation
            where
                definition like 'CREATE TABLE%'
                and concat_ws('.', schema, name) not in (
                    select table_name
                    from duckdb_tables()
                    where
                        database_name = current_database()
                        and schema_name = '{PREVIOUS}'
                )
            """
        ).fetchall()
    )


def _put_back(live: duckdb.DuckDBPyConnection, *, is_part: bool) -> dict[str, int]:
    kept = live.execute(
        f"select schema, name, definition from {PREVIOUS}.relation order by position"
    ).fetchall()
    tables = {}
    for schema, name, sql in kept:
        relation = Relation("", schema, name, "", ())
        rows = _kept(relation)
        if not is_part:
            _make(live, relation, sql)
        if _is_table(sql):
            if is_part:
                _put(live, relation, rows)
            else:
                live.execute(f"insert into {quoted(relation)} from {rows}")
            [[tables[relation.full_name]]] = live.execute(
                f"select count(*) from {rows}"
            ).fetchall()
    return tables


def _is_table(sql: str | None) -> bool:
    return sql is not None and sql.startswith("CREATE TABLE")


def _keep(
    live: duckdb.DuckDBPyConnection, relation: Relation, *, is_part: bool = False
) -> None:
    """Keeps what is there, or that nothing is."""
    sql = definition(live, "current_database()", relation)
    live.execute(
        f"""
        insert into {PREVIOUS}.relation
        select count(*), $1, $2, $3 from {PREVIOUS}.relation
        """,
        [relation.schema, relation.name, sql],
    )
    if _is_table(sql):
        whose = f"where user_id in (select user_id from {PREVIOUS}.learner)"
        live.execute(
            f"create table {_kept(relation)} as "
            f"from {quoted(relation)} {whose if is_part else ''}"
        )


def _make(live: duckdb.DuckDBPyConnection, relation: Relation, sql: str | None) -> None:
    """Makes the table (empty) or view anew, or removes it if there is no SQL."""
    old = definition(live, "current_database()", relation)
    if old is not None:
        kind = "table" if _is_table(old) else "view"
        live.execute(f"drop {kind} {quoted(relation)}")
    if sql is not None:
        live.execute(f'create schema if not exists "{relation.schema}"')
        live.execute(sql)


def _put(live: duckdb.DuckDBPyConnection, relation: Relation, rows: str) -> None:
    """Replaces the rows of the learners of a part."""
    live.execute(
        f"delete from {quoted(relation)} "
        f"where user_id in (select user_id from {PREVIOUS}.learner)"
    )
    live.execute(f"insert into {quoted(relation)} by name from {rows}")


@contextlib.contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing; a full disk, say, is one line."""
    try:
        with transaction(connection):
            yield
    except duckdb.Error as error:
        raise WarehouseError(f"nothing was changed: {first_line(error)}") from error
