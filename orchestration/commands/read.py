"""The commands of those who read: they ask the published snapshot, never the writer."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestration.commands.terminal import (
    ROWS_SHOWN,
    AsJson,
    errors,
    output,
    print_answer,
    print_csv,
    print_json,
    settings,
)

commands = typer.Typer()


@commands.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SQL query.")],
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Ask the warehouse itself, with tables that are not published; it "
            "waits while something is written.",
        ),
    ] = False,
    form: Annotated[
        Literal["table", "csv", "json"],
        typer.Option("--format", help="CSV and JSON have all rows."),
    ] = "table",
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Not only the first {ROWS_SHOWN} rows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the published snapshot a question in SQL."""
    from serving import published, query

    path = settings().warehouse
    is_table = form == "table" and not as_json
    most = ROWS_SHOWN if is_table and not show_all else None
    with query.opened_live(path) if live else published.opened(path) as connection:
        answer = query.ask(connection, sql, most)
    if as_json or form == "json":
        print_json(answer.as_json())
    elif form == "csv":
        print_csv(answer.columns, answer.rows)
    else:
        print_answer(answer.columns, answer.rows)
        if answer.is_cut:
            errors.print(f"note: the first {ROWS_SHOWN} rows; --all shows all")


@commands.command()
def shell() -> None:
    """Ask the published snapshot questions, one after the other.

    A question ends with a semicolon. `.tables` lists what there is, `.describe TABLE`
    its columns, `.quit` ends. Questions may come from a pipe, too.
    """
    from orchestration.commands.shell import answer_questions

    if not answer_questions(settings().warehouse):
        raise typer.Exit(1)


@commands.command()
def export(
    table: Annotated[
        str, typer.Argument(help="A table or view: progress.v_user_progress.")
    ],
    form: Annotated[
        Literal["parquet", "csv", "json", "arrow"] | None,
        typer.Option(
            "--format", help="Else what the file's name ends with, or parquet."
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Where to, `-` for standard output; else the table's name in this "
            "folder.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a table of the published snapshot into a file."""
    from serving import query

    to_output = path == Path("-")
    if to_output and as_json:
        raise typer.BadParameter("--json says what was written where: not with -")
    suffix = "" if path is None or to_output else path.suffix.removeprefix(".")
    if form is None and suffix and suffix not in query.FORMATS:
        raise typer.BadParameter(
            f"{path}: give --format, or a name that ends with one of "
            f"{', '.join(query.FORMATS)}"
        )
    chosen = form or suffix or "parquet"
    if to_output:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table"
            query.export(settings().warehouse, table, chosen, path)
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
        return
    written = query.export(settings().warehouse, table, chosen, path)
    if as_json:
        print_json(written)
    else:
        output.print(
            f"{written.rows:,} rows in {written.path}", markup=False, soft_wrap=True
        )
