"""How commands print: for people tables, for machines JSON, errors in one line each."""

import contextlib
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ingest.progress import Tell
from ingest.settings import Settings

# What a terminal obeys: C0 and C1 controls but the line break and the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_LATE_CONTROL = re.compile(r"[\x7f-\x9f]")


def visible(text: str) -> str:
    """Text of others, as it may go to a terminal: an escape sequence is shown."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class _Console(Console):
    """Whatever is printed of data, no control character in it reaches the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (visible(each) if isinstance(each, str) else each for each in objects)
        super().print(*shown, **options)


# Ids are opaque text: `:x:` in one is no emoji.
output = _Console(emoji=False)
if not output.is_terminal:
    output.width = 160  # a pipe has no width; rich would cut ids at 80
errors = _Console(
    stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False
)

# Of an answer, where no one asks for all: more than a screen has are for a file.
ROWS_SHOWN = 40

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


# Set once, by the door, before a command runs.
settings_of_this_run = ContextVar[Settings]("settings_of_this_run")


def settings() -> Settings:
    """What the environment sets, as it was when the command started."""
    return settings_of_this_run.get()


def print_json(value: object) -> None:
    """A result with all its fields; times in UTC, as RFC 3339."""
    builtins = msgspec.to_builtins(value, builtin_types=(datetime,), enc_hook=str)
    text = json.dumps(builtins, indent=2, ensure_ascii=False, default=_as_rfc_3339)
    # JSON leaves the controls from 7f on as they are; some terminals obey them.
    print(_LATE_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _as_rfc_3339(moment: datetime) -> str:
    return f"{moment.isoformat()}Z" if moment.tzinfo is None else moment.isoformat()


def print_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Values as they are; what a terminal obeys is shown there, and kept in a pipe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_as_csv(value) for value in row])
    made = text.getvalue()
    print(visible(made) if output.is_terminal else made, end="")


def _as_csv(value: object) -> object:
    if isinstance(value, datetime):
        return _as_rfc_3339(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


@contextlib.contextmanager
def show_step(what: str) -> Iterator[Tell]:
    """On a terminal: a line that says what is done, for how long, and then goes."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
    ) as shown:
        task = shown.add_task(visible(what), total=None)
        yield lambda now: shown.update(task, description=visible(now))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    if title:
        output.print(title, markup=False, highlight=False, soft_wrap=True)
    output.print(_table(columns, rows))


def print_answer(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table, or where a row is wider than the terminal, a line for each value."""
    table = _table(columns, rows)
    unlimited = output.options.update(max_width=sys.maxsize)
    if Measurement.get(output, unlimited, table).maximum <= output.width:
        output.print(table)
        return
    width = max(map(len, columns))
    for number, row in enumerate(rows, start=1):
        output.print(f"row {number}", highlight=False)
        for column, value in zip(columns, row, strict=True):
            line = f"  {column:{width}}  {cell(value)}".rstrip()
            output.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[number], int | float) or row[number] is None for row in rows
        )
        table.add_column(Text(cell(column)), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    return table


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as GitHub and its like show it."""

    def line(values: Sequence[Any]) -> str:
        cells = ("" if value is None else str(value) for value in values)
        escaped = (
            text.replace("\\", r"\\").replace("|", r"\|").replace("\n", " ")
            for text in cells
        )
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)])


def cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return visible(str(value))


def short_path(path: str) -> str:
    """As it is typed here: relative to the working directory, if it is inside."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
