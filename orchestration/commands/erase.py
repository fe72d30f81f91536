"""Erasing learners: `warehouse erase`."""

from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    print_table,
    settings,
)

commands = typer.Typer()


@commands.command("erase")
def erase_command(
    reason: Annotated[
        str, typer.Option(help="Why, without the id: it is kept with the tombstone.")
    ],
    user: Annotated[
        list[str] | None, typer.Option(help="This learner. May be repeated.")
    ] = None,
    users_file: Annotated[
        Path | None, typer.Option(help="These learners: a file with one id a line.")
    ] = None,
    spool: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="LMS_SPOOL",
            help="A folder that a SpoolWriter writes to; or set LMS_SPOOL; else the "
            "collector's. May be repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what would be erased.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Erase learners from every table, file and byte of the warehouse, for good.

    Killed or failed, run the same again: it goes on. Their events are refused from then
    on, and counted. The dead letters and the outbox are part of it; files that are not
    the warehouse's are listed, for their owners to delete.
    """
    from orchestration.erasure import erase

    users = [*(user or ()), *(erase.read_users_file(users_file) if users_file else ())]
    collectors = [path for path in settings().spools[:1] if path.is_dir()]
    if not users:
        raise typer.BadParameter("give --user or --users-file")
    result = erase.erase(
        settings().warehouse,
        users,
        erase.Places.of(settings(), spool or collectors),
        reason=reason,
        dry_run=dry_run,
    )
    if as_json:
        print_json(result)
        return
    would_be = "would be " if dry_run else ""
    print_table(
        f"Rows and lines that {would_be or 'were '}erased "
        f"(learners: {result.learners:,}, {result.seconds:.1f} s)",
        ["where", "count"],
        [*result.rows.items(), *result.lines.items()],
    )
    if not dry_run:
        output.print(
            f"New tombstones: {result.new_tombstones:,}. The file was written anew: "
            f"{result.bytes_before:,} bytes before, {result.bytes_after:,} now."
        )
    for table, count in result.mentions.items():
        output.print(
            f"kept: {count:,} rows of {table} that have an id in them and are not the "
            "learner's",
            markup=False,
        )
    for folder in result.backups:
        output.print(f"backups: made anew in {folder}; none of before is left")
    for folder in result.backups_missing:
        errors.print(
            f"not there: {folder}, which has backups with the learners in them: make "
            "it reachable, and run this again"
        )
    for file in result.in_use:
        errors.print(f"in use: {file}: close its writer, and run this again")
    for file in result.left:
        errors.print(f"not the warehouse's, and has an id in it: {file}")
