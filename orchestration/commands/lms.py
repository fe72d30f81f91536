"""The commands for moving in: `warehouse import-lms` and `warehouse compare-lms`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.landing import quiz_register
from ingest.lms.importer import Import, import_lms
from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    print_table,
    settings,
)

if TYPE_CHECKING:
    from orchestration.lms.compare import LmsComparison

commands = typer.Typer()

File = Annotated[
    Path,
    typer.Argument(
        help="The LMS's SQLite database, or the SQL dump that `wrangler d1 export` "
        "writes of it."
    ),
]


@commands.command("import-lms")
def import_command(file: File, as_json: AsJson = False) -> None:
    """Import what is new of an LMS export: its events and its catalogue."""
    register = quiz_register.read(settings().quiz_register)
    result = import_lms(
        file, settings().warehouse, settings().landing, register=register
    )
    if as_json:
        print_json(result)
    else:
        _show_import(result)
    for failure in result.failures:
        errors.print(f"error: {failure}")
    if result.failures:
        raise typer.Exit(1)


def _show_import(result: Import) -> None:
    load = result.load
    print_table(
        f"What happened to every event of {result.file} ({result.seconds:.1f} s)",
        ["", "events"],
        [
            ("in the export", result.events),
            ("known already", result.known),
            ("of erased learners", result.erased + (load.erased if load else 0)),
            ("set aside", sum(result.set_aside.values())),
            ("accepted", load.accepted if load else 0),
            ("duplicate", load.duplicate if load else 0),
            ("conflict", load.conflict if load else 0),
            ("rejected", load.rejected if load else 0),
        ],
    )
    if load and load.rejected_by_reason:
        print_table(
            "Rejected, by reason",
            ["reason", "events"],
            [*load.rejected_by_reason.items()],
        )
    if result.set_aside:
        print_table(
            "Set aside in raw.event_without_contract: types without a contract",
            ["type", "events"],
            [*result.set_aside.items()],
        )
    if result.left:
        print_table(
            "Left in the export: crm_event says no position and no score",
            ["type", "rows"],
            [*result.left.items()],
        )
    if load and load.load_id is not None:
        output.print(f"Load {load.load_id}: {load.file}", markup=False)
    if snapshot := result.catalogue:
        output.print(
            f"Catalogue, load {snapshot.load_id}"
            f"{', not changed since' if snapshot.known else ''}: "
            f"classes: {snapshot.classes}, courses: {snapshot.courses}, "
            f"sections left out: {result.sections}",
            markup=False,
        )
    elif not result.catalogue_failed:
        output.print("Catalogue: the export has no classes; nothing was landed.")
    if result.has_news:
        output.print("`warehouse refresh` derives from what is new.", markup=False)


@commands.command("compare-lms")
def compare_command(
    file: File,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write every difference there, as CSV."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare an LMS export's v_user_progress with ours, and explain what differs.

    Exit code 1 if a difference is left unexplained.
    """
    from orchestration.lms.compare import compare_lms, write_csv

    found = compare_lms(
        file, settings().warehouse, quiz_register.read(settings().quiz_register)
    )
    if csv:
        write_csv(found, csv, settings().warehouse)
    if as_json:
        print_json(found.as_json())
    else:
        _show_comparison(found, csv)
    if found.unexplained:
        errors.print(
            f"error: {found.unexplained} differences are unexplained; "
            + (f"see them in {csv}" if csv else "--csv PATH lists them")
        )
        raise typer.Exit(1)


def _show_comparison(found: "LmsComparison", csv: Path | None) -> None:
    print_table(
        f"v_user_progress of {found.file} and ours ({found.seconds:.1f} s)",
        ["", "rows"],
        [
            ("theirs", found.their_rows),
            ("ours", found.our_rows),
            ("the same", found.same_rows),
            ("different", found.different_rows),
        ],
    )
    if causes := found.by_cause():
        print_table(
            "Differences, by what they come from",
            ["cause", "rows", "differences", "in", "meaning"],
            [
                (
                    *(cause["cause"], cause["rows"], cause["differences"]),
                    ", ".join(f"{name} {n:,}" for name, n in cause["columns"].items()),
                    cause["meaning"],
                )
                for cause in causes
            ],
        )
    if found.signals is not None:
        print_table(
            "lms_signal, by type",
            ["type", "both", "only theirs", "only ours", "no place with them"],
            [tuple(vars(each).values()) for each in found.signals],
        )
    if found.leaderboard is not None:
        print_table(
            "v_leaderboard, counts of learners",
            ["the same", "multiplied by badges", "different"],
            [tuple(vars(found.leaderboard).values())],
        )
    for table, counts in (
        ("lms_signal", found.signals),
        ("v_leaderboard", found.leaderboard),
    ):
        if counts is None:
            output.print(f"The export has no {table}: not compared.", markup=False)
    if csv:
        output.print(f"{len(found.differences):,} differences in {csv}", markup=False)
