"""Rows of a public model, page by page, in the scope of who asks."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import msgspec

from ingest.collector.answers import Refused
from serving.api.contracts import Model
from serving.questions.course import without_small_losses
from serving.reader import Reader, Row

FUNNEL = "v_course_funnel"
MOST_ROWS = 1000
ROWS = 100


@dataclass(frozen=True)
class Page:
    """Rows in the order of the page, and where the next page begins; None: the end."""

    rows: list[Row]
    next: str | None


def page(
    reader: Reader,
    model: Model,
    only: Mapping[str, str],
    *,
    learner: str | None = None,
    order: Sequence[str] = (),
    after: str | None = None,
    limit: int | None = ROWS,
) -> Page:
    """The rows in which the columns of `only` have these values.

    With `learner` those of this learner alone. `order` are columns that no two rows
    share the values of, by default the key; the page begins past `after`, which the
    page before gave. Raises `Refused`, and `NamesHidden` for rows of single learners
    who may not be named to whoever asks.
    """
    order = order or model.key
    if model.name == FUNNEL and learner is None and not reader.scope.sees_names:
        return _of_funnel(reader, model, only, after, limit)
    conditions = [in_scope(reader, model)]
    values: dict[str, Any] = {}
    if learner is not None:
        if "user_id" not in model:
            raise Refused(403, "a learner token reads what is of its own learner only")
        conditions.append("user_id = $learner")
        values["learner"] = learner
    elif "user_id" in model:
        reader.needs_names()
    for number, (name, value) in enumerate(only.items()):
        conditions.append(f"{name} = cast($only{number} as {model.type_of(name)})")
        values[f"only{number}"] = value
    if after is not None:
        begin = _decoded(after, len(order))
        casts = [
            f"cast($after{number} as {model.type_of(name)})"
            for number, name in enumerate(order)
        ]
        conditions.append(f"({', '.join(order)}) > ({', '.join(casts)})")
        # On its own the first column skips what lies before.
        conditions.append(f"{order[0]} >= {casts[0]}")
        values |= {f"after{number}": value for number, value in enumerate(begin)}
    columns = ", ".join(column.name for column in model.columns)
    sql = (
        f"select {columns} from {model.schema}.{model.name} "
        f"where {' and '.join(conditions)}"
    )
    if order:
        sql += f" order by {', '.join(order)}"
    if limit is not None:
        sql += f" limit {limit + 1}"
    try:
        rows = reader.rows(sql, **values)
    except duckdb.ConversionException as error:
        asked = ", ".join(only) or "after"
        raise Refused(400, f"{asked}: a value is not of the column's type") from error
    found = _cut(rows, order, limit)
    return Page(reader.suppressed(found.rows, model.learner_counts), found.next)


def _of_funnel(
    reader: Reader,
    model: Model,
    only: Mapping[str, str],
    after: str | None,
    limit: int | None,
) -> Page:
    """For who may not see names: what a step shows depends on all before it."""
    columns = ", ".join(column.name for column in model.columns)
    rows = without_small_losses(
        reader.rows(
            f"select {columns} from {model.schema}.{model.name} "
            f"where {in_scope(reader, model)} order by {', '.join(model.key)}"
        )
    )
    if after is not None:
        course_id, step = _decoded(after, 2)
        if not step.isdecimal():
            raise Refused(400, "after: give the `next` of the page before")
        rows = [
            row
            for row in rows
            if (row["course_id"], row["step"]) > (course_id, int(step))
        ]
    rows = [row for row in rows if all(str(row[n]) == v for n, v in only.items())]
    return _cut(rows, model.key, limit)


def _cut(rows: list[Row], order: Sequence[str], limit: int | None) -> Page:
    if limit is None or len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], _encoded([rows[limit - 1][name] for name in order]))


def in_scope(reader: Reader, model: Model) -> str:
    """The condition that the course of a row, or the course of its class in today's
    catalogue, is in the reader's scope. Raises `Refused` where rows have neither."""
    if reader.scope.courses is None:
        return "true"
    conditions = [
        condition(column)
        for column, condition in (
            ("course_id", reader.courses),
            ("class_id", reader.classes),
        )
        if column in model
    ]
    if not conditions:
        raise Refused(403, f"{model.name} is for those who may see every course")
    return f"({' or '.join(conditions)})"


def _encoded(values: Sequence[Any]) -> str:
    content = msgspec.json.encode([str(value) for value in values])
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decoded(text: str, count: int) -> list[str]:
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        values = msgspec.json.decode(content, type=list[str])
    except (ValueError, msgspec.DecodeError):
        values = []
    if not values or len(values) != count:
        raise Refused(400, "after: give the `next` of the page before")
    return values
