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
    short_path,
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


@commands.command()
def sandbox(
    name: Annotated[
        str | None, typer.Argument(help="Of the sandbox; without it, all are listed.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a private copy of what is published, to try an edit in."""
    from orchestration.shadow import sandbox as sandboxes

    path = settings().warehouse
    if name is None:
        found = sandboxes.sandboxes(path)
        if as_json:
            print_json(found)
        else:
            print_table(
                "",
                ["sandbox", "through load", "bytes", "path"],
                [(each.name, each.load_id, each.bytes, each.path) for each in found],
            )
        return
    if remove:
        sandboxes.remove(path, name)
        if as_json:
            print_json({"removed": name})
        else:
            output.print(f"removed {name}", markup=False)
        return
    made = sandboxes.make(path, name)
    if as_json:
        print_json(made)
        return
    place = short_path(made.path)
    for line in (
        f"{place}: {made.bytes / 1e6:.1f} MB, through load {made.load_id}",
        f"edit a model, then: warehouse diff {name}",
        f"or build it yourself: LMS_SANDBOX={made.path} dbt build --target sandbox "
        "--project-dir dbt_project --profiles-dir dbt_project",
    ):
        output.print(line, markup=False, highlight=False, soft_wrap=True)


@commands.command()
def diff(
    name: Annotated[str, typer.Argument(help="Of the sandbox.")],
    build: Annotated[
        bool, typer.Option(help="First build what an edit reaches, with dbt.")
    ] = True,
    examples: Annotated[
        int, typer.Option(help="Of each kind of change in each table.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Show what edits to the project change in a sandbox, against what is published."""
    from orchestration.shadow import difference
    from orchestration.shadow import sandbox as sandboxes

    found = sandboxes.diff(settings().warehouse, name, build=build, examples=examples)
    if as_json:
        print_json(found.as_json())
        return
    edited = ", ".join(found.edited) or "no model"
    for line in (
        f"edited: {edited}",
        f"downstream: {', '.join(found.downstream) or 'nothing'}",
        f"compared: {found.compared} tables and views, through load {found.load_id}, "
        f"in {found.seconds:.1f} s",
    ):
        output.print(line, markup=False, highlight=False, soft_wrap=True)
    if not found.differences:
        output.print("Nothing differs from what is published.")
        return
    print_table(
        "What differs from what is published",
        ["table", "rows", "added", "gone", "changed", "changed columns"],
        sandboxes.summary_rows(found.differences),
    )
    print_table(
        "Examples",
        ["table", "change", "row", "published -> sandbox"],
        difference.example_rows(found.differences),
    )
