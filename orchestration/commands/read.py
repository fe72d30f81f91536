"""The commands of those who read: they ask the published snapshot, never the writer."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestration.commands.terminal import (
    AsJson,
    output,
    print_json,
    print_table,
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
    as_json: AsJson = False,
) -> None:
    """Ask the published snapshot a question in SQL."""
    from serving import published, query

    path = settings().warehouse
    with query.opened_live(path) if live else published.opened(path) as connection:
        answer = query.ask(connection, sql)
    if as_json:
        print_json(answer.as_json())
    else:
        print_table("", answer.columns, answer.rows)


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
        Literal["parquet", "csv", "arrow"],
        typer.Option("--format", help="Of the file."),
    ] = "parquet",
    path: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Where to; else the table's name in this folder."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a table of the published snapshot into a file."""
    from serving import query

    written = query.export(settings().warehouse, table, form, path)
    if as_json:
        print_json(written)
    else:
        output.print(
            f"{written.rows:,} rows in {written.path}", markup=False, soft_wrap=True
        )
