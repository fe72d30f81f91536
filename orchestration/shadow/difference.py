"""What differs between the live state and a shadow, row by row, by key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from ingest.store.database import sql_name
from orchestration.derive.dbt_project import Relation
from orchestration.shadow.shadow import LIVE

# The database that a connection of `shadow.opened` is in.
DERIVED = "current_database()"


@dataclass(frozen=True)
class Example:
    """A row that differs: `change` is added, gone or changed.

    `columns` are those outside the key that differ, each with its live and its derived
    value, None on the side that has no such row.
    """

    change: str
    key: dict[str, Any]
    columns: dict[str, list[Any]]


@dataclass(frozen=True)
class Difference:
    """What deriving again makes of one table or view; `rows` are the derived ones.

    One that `is_new` is not there live, or cannot be read: all its rows are added.
    Columns that only one side has, or that have another type there, are named with
    their type, and not compared. `columns_changed` says of how many changed rows each
    column differs.
    """

    table: str
    is_new: bool
    rows: int
    added: int
    gone: int
    changed: int
    columns_added: tuple[str, ...]
    columns_gone: tuple[str, ...]
    columns_changed: dict[str, int]
    examples: tuple[Example, ...]

    @property
    def other_columns(self) -> tuple[str, ...]:
        return (*self.columns_added, *self.columns_gone)

    @property
    def is_empty(self) -> bool:
        rows = self.added or self.gone or self.changed
        return not (self.is_new or rows or self.other_columns)

    @property
    def column_changes(self) -> list[str]:
        """For people: what is gone, was added, or has another type."""
        added, gone = _types(self.columns_added), _types(self.columns_gone)
        return [
            *(f"- {name}" for name in gone if name not in added),
            *(f"+ {name} {added[name]}" for name in added if name not in gone),
            *(
                f"{name} {gone[name]} -> {added[name]}"
                for name in gone
                if name in added
            ),
        ]

    @property
    def missing_columns(self) -> list[str]:
        """For people: what a reader of the live columns no longer finds."""
        added = _types(self.columns_added)
        return [
            f"column {name} is {added[name]}, was {type_}"
            if name in added
            else f"column {name} is gone"
            for name, type_ in _types(self.columns_gone).items()
        ]


def _types(named: Sequence[str]) -> dict[str, str]:
    """The type of each column, of columns that are named with their type."""
    return dict(column.split(" ", 1) for column in named)


def compare(
    connection: duckdb.DuckDBPyConnection,
    relation: Relation,
    *,
    only: str = "true",
    examples: int = 3,
    place: Relation | None = None,
) -> Difference:
    """Compares live rows that satisfy `only` with all derived ones.

    Rows are compared whole, as often as each is there; of each kind of change at most
    `examples` are named, the least keys first. `place` is where the relation stands
    live, if it was moved. `connection` is one of `shadow.opened`.
    """
    place = place or relation
    after = columns(connection, DERIVED, relation)
    before = columns(connection, f"'{LIVE}'", place)
    is_new = not _is_readable(connection, place)
    if is_new:
        before = after
    common = [name for name in after if after[name] == before.get(name)]
    selected = ", ".join(f'"{name}"' for name in common) or "0"
    derived = f"select {selected} from {quoted(relation)}"
    live = f"select {selected} from {LIVE}.{quoted(place)} where {only}"
    if is_new:
        live = f"{derived} where false"
    differing = 0
    for table, rows, others in (
        ("only_live", live, derived),
        ("only_derived", derived, live),
    ):
        [[count]] = connection.execute(
            f"create or replace temp table {table} as {rows} except all {others}"
        ).fetchall()
        differing += count
    [[row_count]] = connection.execute(f"select count(*) from ({derived})").fetchall()
    changes = _Changes(connection, known_by(relation, common), common)
    kinds = ("added", "gone", "changed") if differing and common else ()
    counts = {kind: changes.count(kind) for kind in kinds}
    return Difference(
        table=relation.full_name,
        is_new=is_new,
        rows=row_count,
        added=counts.get("added", 0),
        gone=counts.get("gone", 0),
        changed=counts.get("changed", 0),
        columns_added=tuple(
            f"{name} {after[name]}" for name in after if name not in common
        ),
        columns_gone=tuple(
            f"{name} {before[name]}" for name in before if name not in common
        ),
        columns_changed=changes.by_column() if counts.get("changed") else {},
        examples=tuple(
            example for kind in kinds for example in changes.examples(kind, examples)
        ),
    )


def known_by(relation: Relation, common: Sequence[str]) -> Sequence[str]:
    """The columns by which rows of both sides are brought together: the key, or if one
    side lacks a part of it, all that both have."""
    has_key = relation.key and set(relation.key) <= set(common)
    return relation.key if has_key else common


def _is_readable(connection: duckdb.DuckDBPyConnection, relation: Relation) -> bool:
    """Not if it is missing, or a view of something that is."""
    try:
        connection.execute(f"select * from {LIVE}.{quoted(relation)} limit 0")
    except (duckdb.CatalogException, duckdb.BinderException):
        return False
    return True


class _Changes:
    """Rows of `only_live` and `only_derived`, brought together by key."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        key: Sequence[str],
        columns: Sequence[str],
    ) -> None:
        self._connection = connection
        self._key = key
        self._columns = columns
        same_key = (
            " and ".join(
                f'one."{name}" is not distinct from other."{name}"' for name in key
            )
            or "true"
        )
        self._sources = {
            change: f"{one} as one {join} join {other} as other on {same_key}"
            for change, one, join, other in (
                ("added", "only_derived", "anti", "only_live"),
                ("gone", "only_live", "anti", "only_derived"),
                ("changed", "only_derived", "inner", "only_live"),
            )
        }

    def count(self, change: str) -> int:
        [[count]] = self._connection.execute(
            f"select count(*) from {self._sources[change]}"
        ).fetchall()
        return int(count)

    def by_column(self) -> dict[str, int]:
        """In how many of the changed rows each column differs."""
        names = [name for name in self._columns if name not in self._key]
        counts = ", ".join(
            f'count(*) filter (one."{name}" is distinct from other."{name}")'
            for name in names
        )
        [row] = self._connection.execute(
            f"select {counts or '0'} from {self._sources['changed']}"
        ).fetchall()
        found = zip(names, row, strict=False)
        return {name: int(count) for name, count in found if count}

    def examples(self, change: str, count: int) -> list[Example]:
        names = [name for name in self._columns if name not in self._key]
        key = [f'one."{name}"' for name in self._key]
        here = [f'one."{name}"' for name in names]
        there = ["null" for _ in names]
        if change == "changed":
            there = [f'other."{name}"' for name in names]
        live, derived = (here, there) if change == "gone" else (there, here)
        rows = self._connection.execute(
            f"""
            select {", ".join([*key, *live, *derived])}
            from {self._sources[change]}
            order by {", ".join(key)}
            limit {count:d}
            """
        ).fetchall()
        return [
            Example(
                change,
                dict(zip(self._key, row, strict=False)),
                {
                    name: pair
                    for name, *pair in zip(
                        names,
                        row[len(key) : len(key) + len(names)],
                        row[len(key) + len(names) :],
                        strict=True,
                    )
                    if pair[0] != pair[1]
                },
            )
            for row in rows
        ]


# Of an added or gone row, and of one with many changes, this many columns are shown.
_COLUMNS_SHOWN = 4
_WIDTH = 45

SUMMARY = ("table", "rows", "added", "gone", "changed", "columns")
EXAMPLES = ("table", "change", "row", "live -> derived")


def summary_rows(differences: Sequence[Difference]) -> list[tuple[Any, ...]]:
    """For people, under the headings of `SUMMARY`."""
    return [
        (
            f"{each.table} (new)" if each.is_new else each.table,
            each.rows,
            each.added,
            each.gone,
            each.changed,
            ", ".join(each.column_changes),
        )
        for each in differences
    ]


def example_rows(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    """For people, under the headings of `EXAMPLES`."""
    return [
        (
            each.table,
            example.change,
            ", ".join(f"{name}={short(value)}" for name, value in example.key.items()),
            _columns_text(example),
        )
        for each in differences
        for example in each.examples
    ]


def _columns_text(example: Example) -> str:
    shown = [
        f"{name}: {short(live)} -> {short(derived)}"
        if example.change == "changed"
        else f"{name}: {short(derived if example.change == 'added' else live)}"
        for name, (live, derived) in list(example.columns.items())[:_COLUMNS_SHOWN]
    ]
    more = len(example.columns) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])])


def short(value: object) -> str:
    """For people: a list of event ids would fill the screen."""
    text = str(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def quoted(relation: Relation) -> str:
    return sql_name(relation.schema, relation.name)


def columns(
    connection: duckdb.DuckDBPyConnection, database: str, relation: Relation
) -> dict[str, str]:
    """The type of each column; empty where there is no such table or view."""
    rows = connection.execute(
        f"""
        select column_name, data_type
        from duckdb_columns()
        where database_name = {database} and schema_name = $1 and table_name = $2
        order by column_index
        """,
        [relation.schema, relation.name],
    ).fetchall()
    return dict(rows)


def definition(
    connection: duckdb.DuckDBPyConnection, database: str, relation: Relation
) -> str | None:
    """The SQL that makes it, without the database's name; None if there is none."""
    rows = connection.execute(
        f"""
        select sql from duckdb_views()
        where database_name = {database} and schema_name = $1 and view_name = $2
        union all
        select sql from duckdb_tables()
        where database_name = {database} and schema_name = $1 and table_name = $2
        """,
        [relation.schema, relation.name],
    ).fetchall()
    return rows[0][0] if rows else None
