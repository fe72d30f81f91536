"""The commands of those who read: they ask the published snapshot, never the writer."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ingest import warehouse
from orchestration.terminal import AsJson, errors, output, print_json, print_table

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
    from orchestration import reading, snapshot

    path = warehouse.warehouse_path()
    with (
        warehouse.open_for_reading(path) if live else snapshot.opened(path)
    ) as connection:
        answer = reading.ask(connection, sql)
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
    from orchestration import reading

    if not reading.shell(warehouse.warehouse_path(), output, errors):
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
    from orchestration import reading

    written = reading.export(warehouse.warehouse_path(), table, form, path)
    if as_json:
        print_json(written.as_json())
    else:
        output.print(
            f"{written.rows:,} rows in {written.path}", markup=False, soft_wrap=True
        )
