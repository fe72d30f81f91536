"""The command `warehouse`: its door. What each command does stands in `commands/`.

Exit codes: 0 when all is done (lines that were rejected have found their place, too), 1
when something failed (one line on standard error says what and what to do), 2 for bad
usage.
"""

import contextlib
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated

import duckdb
import typer

from ingest import progress
from ingest.errors import WarehouseError, first_line
from ingest.settings import Settings
from ingest.store import database
from ingest.store.files import hide_from_strangers
from orchestration.commands import (
    backup,
    collect,
    contracts,
    dashboard,
    dead_letters,
    demo,
    doctor,
    erase,
    land,
    lms,
    publish,
    read,
    refresh,
    replay,
    report,
    sandbox,
    serve,
    status,
)
from orchestration.commands.terminal import errors, settings_of_this_run, show_step

app = typer.Typer(
    name="warehouse",
    help="The event warehouse of a learning platform.",
    epilog="The warehouse is the DuckDB file at LMS_WAREHOUSE, or else "
    "data/warehouse.duckdb.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order in which data passes; the help lists them so.
_FAMILIES = {
    "Bring in": (demo, collect, lms, land, dead_letters),
    "Derive and look after": (refresh, status, doctor, backup, replay, erase),
    "Read": (read, dashboard, report, serve),
    "Try an edit": (sandbox,),
    "For other systems": (publish, contracts),
}
for panel, families in _FAMILIES.items():
    for family in families:
        named = family.commands
        for each in (*named.registered_commands, *named.registered_groups):
            each.rich_help_panel = panel
        app.add_typer(family.commands, rich_help_panel=panel)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"warehouse {version('lms-warehouse')}")
        raise typer.Exit


@app.callback()
def at_the_door(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show it and exit."
        ),
    ] = False,
) -> None:
    settings_of_this_run.set(Settings.from_environment())
    if errors.is_terminal:
        progress.show_by(show_step)


# What DuckDB raises where a write or, for want of it, a commit fails.
_OF_THE_DISK = (
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.FatalException,
)


@contextlib.contextmanager
def _damage_is_said() -> Iterator[None]:
    """For what reads the warehouse beside those who opened it: a shadow, for one."""
    try:
        yield
    except (duckdb.Error, WarehouseError) as error:
        if database.is_damage(error):
            with database.damage_is_said(settings_of_this_run.get().warehouse):
                raise
        raise


def main() -> None:
    """Runs the command; every error that the user can mend is one line."""
    hide_from_strangers()
    try:
        with _damage_is_said():
            app()
    except WarehouseError as error:
        errors.print(f"error: {error}")
        sys.exit(1)
    except (*_OF_THE_DISK, OSError) as error:
        errors.print(
            f"error: {first_line(error)}; what was not finished was not "
            "written: if the disk is full make room, and run it again"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted: what was not finished was not written; run it again")
        sys.exit(130)
