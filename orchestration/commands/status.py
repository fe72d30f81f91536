"""What there is, and whether it agrees: `warehouse status`, `warehouse reconcile`."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    print_table,
    settings,
)

if TYPE_CHECKING:
    from orchestration.shadow.reconcile import Reconciliation

commands = typer.Typer()


@commands.command()
def status(as_json: AsJson = False) -> None:
    """Show loads, the newest event, dead letters, and how far each model is behind."""
    from orchestration.status import read_status

    state = read_status(settings().warehouse)
    if as_json:
        print_json(state)
        return
    print_table(
        f"{state.warehouse} ({state.bytes / 1e6:.1f} MB)",
        ["", "value"],
        [
            ("event loads", state.loads),
            ("catalogue snapshots", state.snapshots),
            ("newest load", state.newest_load_id),
            ("landed at (UTC)", state.newest_load_at),
            ("events", state.events),
            ("newest event (UTC)", state.newest_event_at),
            *((f"lines: {name}", count) for name, count in state.outcomes.items()),
        ],
    )
    if state.dead_letters:
        print_table(
            "Dead letters", ["reason", "lines"], list(state.dead_letters.items())
        )
    if state.models:
        print_table(
            "What each model has taken in",
            ["model", "load", "at (UTC)", "loads behind", "events behind"],
            [tuple(vars(model).values()) for model in state.models],
        )
    else:
        output.print("Nothing is derived yet: run `warehouse refresh`.")


@commands.command()
def reconcile(
    repair: Annotated[
        bool,
        typer.Option(help="Derive what differs again, key by key, and look again."),
    ] = False,
    examples: Annotated[
        int, typer.Option(min=0, help="How many keys of a kind to name.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Prove that all that is derived agrees with raw. Exit code 1 if it does not."""
    from orchestration.shadow.reconcile import reconcile as prove

    result = prove(settings().warehouse, repair=repair, examples=examples)
    if as_json:
        print_json(result.as_json())
    else:
        _show_reconciliation(result)
    if not result.agrees:
        raise typer.Exit(1)


def _show_reconciliation(result: "Reconciliation") -> None:
    print_table(
        "Lines of all files, and where they are",
        ["", "lines"],
        [
            *((name, count) for name, count in vars(result.lines).items()),
            ("unaccounted", result.lines.unaccounted),
        ],
    )
    print_table(
        f"What is derived, and what deriving it again gives ({result.seconds:.1f} s)",
        ["table", "load", "rows", "hash", "derived again", "missing", "extra", "wrong"],
        [
            (
                *(table.table, table.load_id, table.live_rows, table.live_hash),
                *(table.derived_hash, table.added, table.gone, table.changed),
            )
            for table in result.tables
        ],
    )
    for line in result.notes:
        output.print(line, markup=False, soft_wrap=True)
    for line in result.repaired:
        output.print(f"repaired: {line}", markup=False, soft_wrap=True)
    for line in result.problems:
        errors.print(f"error: {line}")
    if result.agrees and result.tables:
        output.print("Everything that is derived agrees with raw.")
