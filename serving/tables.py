"""Rows as HTML, and as CSV: text is escaped, links are plain links.

Real tables rather than a canvas: they can be read aloud, walked with the keyboard,
selected, printed and mailed.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from html import escape
from typing import Any

from serving import formats
from serving.reader import Row

# Characters that stay on one line.
_SHORT = 24

# What a spreadsheet would run as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Column:
    """A column of a table: the value `name` of each row as `form` writes it.

    `link` gives the address that the cell leads to, or None.
    """

    name: str
    label: str
    form: Callable[[Any], str] = formats.text
    link: Callable[[Row], str | None] | None = None

    @property
    def is_number(self) -> bool:
        return self.form in _NUMBERS


_NUMBERS = (
    *(formats.number, formats.decimal, formats.share, formats.percent),
    *(formats.length, formats.bytes_of),
)


def html(columns: Sequence[Column], rows: Iterable[Row], *, caption: str) -> str:
    """A table; `caption` names it for those who do not see where it stands."""
    head = "".join(
        f'<th scope="col"{_kind(column)}>{escape(column.label)}</th>'
        for column in columns
    )
    body = "".join(
        f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>" for row in rows
    )
    return (
        f'<table class="rows"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _kind(column: Column, text: str = "") -> str:
    """How a cell is set: what is short stays on one line."""
    if column.is_number:
        return ' class="number"'
    return ' class="short"' if 0 < len(text) <= _SHORT else ' class="long"'


def _cell(column: Column, row: Row) -> str:
    value = row[column.name]
    text = column.form(value)
    shown = escape(text)
    address = column.link(row) if column.link and value is not None else None
    if address:
        shown = f'<a href="{escape(address)}">{shown}</a>'
    return f"<td{_kind(column, text)}>{shown}</td>"


def as_csv(rows: Sequence[Row]) -> str:
    """All values as they are; text that a spreadsheet would run gets an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(list(rows[0]) if rows else [])
    for row in rows:
        writer.writerow([_csv_cell(value) for value in row.values()])
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def as_json(value: Any) -> str:
    """Times are in UTC, as RFC 3339."""

    def plain(other: Any) -> Any:
        if isinstance(other, datetime):
            return f"{other.isoformat()}Z"
        return other.isoformat() if isinstance(other, date) else str(other)

    return json.dumps(value, indent=2, ensure_ascii=False, default=plain)
