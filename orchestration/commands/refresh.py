"""Deriving: `warehouse refresh`, `rebuild` and `check`, and what is left over."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingest.store import database
from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    print_table,
    settings,
    short_path,
)

if TYPE_CHECKING:
    from orchestration.derive.dbt_runner import Derivation

commands = typer.Typer()


@commands.command()
def refresh(as_json: AsJson = False) -> None:
    """Bring everything derived up to date, incrementally."""
    _refresh(rebuild=False, as_json=as_json)


@commands.command()
def rebuild(as_json: AsJson = False) -> None:
    """Derive everything again from raw."""
    _refresh(rebuild=True, as_json=as_json)


@commands.command()
def check(as_json: AsJson = False) -> None:
    """Run every data test, those that scan the whole history too."""
    from orchestration.derive import dbt_runner

    checked = dbt_runner.check(settings().warehouse)
    _report(checked, checked.as_json() if as_json else None)


@commands.command("leftovers")
def leftovers_command(
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop them, in one transaction.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the tables and views that the project no longer has, and perhaps drop them.

    As the last refresh saw the project. Readers no longer get them.
    """
    from orchestration.derive import leftovers

    path = settings().warehouse
    with database.open_for_reading(path) as connection:
        found = leftovers.find(connection)
    if drop and found:
        with database.open_for_writing(path) as connection:
            found = leftovers.drop(connection)
    if as_json:
        names = [leftover.full_name for leftover in found]
        print_json({"dropped" if drop else "leftovers": names})
    elif not found:
        output.print("Nothing is left over.")
    else:
        print_table(
            "Dropped" if drop else "No longer in the project, and not published",
            ["schema", "name", "kind"],
            [(each.schema, each.name, each.kind) for each in found],
        )


def _refresh(*, rebuild: bool, as_json: bool) -> None:
    from orchestration.refresh import refresh

    result = refresh(settings().warehouse, rebuild=rebuild)
    _report(result.derivation, result.as_json() if as_json else None)
    if result.snapshot and not as_json:
        done = "published" if result.snapshot.is_new else "as published"
        output.print(
            f"{done} {result.snapshot.published_at:%Y-%m-%d %H:%M:%S} (UTC), "
            f"through load {result.snapshot.load_id}: "
            f"{short_path(result.snapshot.path)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _report(derivation: "Derivation", as_json: dict[str, Any] | None) -> None:
    """Prints what dbt did, or `as_json` instead; exits with 1 if it failed."""
    summary = derivation.as_json()
    if as_json is not None:
        print_json(as_json)
    elif derivation.nothing_new:
        output.print(f"nothing new, {summary['seconds']:.1f} s")
    else:
        output.print(
            f"{summary['models']} models"
            + (", views as they were" if derivation.views_unchanged else "")
            + f", {summary['tests']} tests, {summary['seconds']:.1f} s"
            + ("" if derivation.succeeded else ", with failures")
        )
        for node in derivation.nodes:
            if node.warned:
                output.print(f"warning: {node.name}: {node.message}", markup=False)
    if as_json is None:
        for leftover in derivation.leftovers:
            output.print(
                f"left over: {leftover.full_name} ({leftover.kind}): the project no "
                "longer has it, and readers no longer get it; "
                "`warehouse leftovers --drop` drops it",
                markup=False,
                soft_wrap=True,
            )
        for leftover in derivation.dropped:
            output.print(
                f"dropped: {leftover.full_name} ({leftover.kind}): the project no "
                "longer has it",
                markup=False,
                soft_wrap=True,
            )
    for node in derivation.failures:
        errors.print(f"error: {node.problem}")
    if summary["skipped"]:
        errors.print(f"skipped because of that: {', '.join(summary['skipped'])}")
    if not derivation.succeeded:
        raise typer.Exit(1)
