"""What there is, and whether it agrees: `warehouse status`, `warehouse reconcile`."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

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
    from orchestration.shadow.reconcile import Reconciliation
    from orchestration.status import Status

commands = typer.Typer()


@commands.command()
def status(as_json: AsJson = False) -> None:
    """Show what has landed, what readers have, and how the last runs ended."""
    from orchestration.status import read_status

    state = read_status(settings())
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
            *_rows_of_what_is_published(state),
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


def _rows_of_what_is_published(state: "Status") -> Iterator[tuple[str, object]]:
    if shown := state.published:
        yield "published load", shown.load_id
        yield "published at (UTC)", _moment(shown.published_at, shown.age_sec)
    else:
        yield "published load", "nothing was published yet"
    for kind, run in state.last_runs.items():
        yield f"last {kind} (UTC)", f"{run.ended_at:%Y-%m-%d %H:%M:%S}, {run.outcome}"
    if waits := state.unread:
        yield "unread files", waits.files
        yield "oldest unread file", short_path(waits.oldest)
        yield "it changed at (UTC)", _moment(waits.changed_at, waits.age_sec)
    else:
        yield "unread files", 0


def _moment(moment: datetime, age_sec: float) -> str:
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_sec >= seconds:
            age = f"{age_sec / seconds:.0f} {unit}"
            break
    else:
        age = f"{max(age_sec, 0):.0f} s"
    return f"{moment:%Y-%m-%d %H:%M:%S}, {age} ago"


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
