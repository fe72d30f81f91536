"""The public models of a snapshot: the contracts that dbt wrote into it."""

import re
from dataclasses import dataclass
from typing import Any

import duckdb

from ingest.errors import WarehouseError

_SCHEMAS: dict[str, dict[str, Any]] = {
    "varchar": {"type": "string"},
    "integer": {"type": "integer"},
    "bigint": {"type": "integer"},
    "double": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "timestamp": {"type": "string", "format": "date-time"},
    "varchar[]": {"type": "array", "items": {"type": "string"}},
}


@dataclass(frozen=True)
class Column:
    """A column of a public model; `type` is DuckDB's word."""

    name: str
    type: str
    description: str
    is_key: bool
    counts_learners: bool

    def json_schema(self) -> dict[str, Any]:
        """Whatever is no key may be null: few learners are not counted for everyone."""
        schema = dict(_SCHEMAS[self.type])
        if not self.is_key:
            schema["type"] = [schema["type"], "null"]
        return {**schema, "description": self.description}


@dataclass(frozen=True)
class Model:
    """A public model. `changes_with_time` says that its rows change though no event
    comes: they depend on the current time."""

    schema: str
    name: str
    description: str
    columns: tuple[Column, ...]
    changes_with_time: bool

    def __contains__(self, column: str) -> bool:
        return any(each.name == column for each in self.columns)

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.is_key)

    @property
    def learner_counts(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.columns if each.counts_learners)

    @property
    def filters(self) -> tuple[str, ...]:
        """The columns that a request may ask for one value of."""
        ids = ("user_id", "class_id", "course_id")
        return tuple(
            column.name
            for column in self.columns
            if column.is_key or column.name in ids
        )

    def type_of(self, column: str) -> str:
        return next(each.type for each in self.columns if each.name == column)

    def json_schema(self) -> dict[str, Any]:
        """Of one row."""
        return {
            "type": "object",
            "description": self.description,
            "required": [column.name for column in self.columns],
            "properties": {each.name: each.json_schema() for each in self.columns},
            "additionalProperties": False,
        }


def read_models(connection: duckdb.DuckDBPyConnection) -> dict[str, Model]:
    """The public models by name. Raises `WarehouseError` for a snapshot without."""
    try:
        rows = connection.execute(
            """
            select
                schema_name, model, model_description,
                list(
                    (column_name, data_type, description, is_key, counts_learners)
                    order by place
                )
            from bookkeeping.public_column
            group by schema_name, model, model_description
            order by model
            """
        ).fetchall()
    except duckdb.CatalogException as error:
        raise WarehouseError(
            "the snapshot is of an earlier version; run `warehouse refresh`"
        ) from error
    views = dict(
        connection.execute(
            "select view_name, sql from duckdb_views() "
            "where database_name = current_database()"
        ).fetchall()
    )
    changing = _change_with_time(views)
    return {
        name: Model(
            schema,
            name,
            description,
            tuple(Column(*column) for column in columns),
            name in changing,
        )
        for schema, name, description, columns in rows
    }


def _change_with_time(views: dict[str, str]) -> set[str]:
    """The views that ask for the current time, or read one that does.

    But for `catalogue_class`, which changes only when a catalogue comes into force:
    `Served` knows when that is.
    """
    found: set[str] = set()
    words = {"getvariable"}  # ('now'): macros/time.sql
    while words:
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")
        words = {
            name
            for name, sql in views.items()
            if name not in found and name != "catalogue_class" and pattern.search(sql)
        }
        found |= words
    return found
