"""Deriving again: `warehouse replay`, its undo, and what was known at a moment."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.landing import catalogue as catalogues
from orchestration.commands.terminal import (
    AsJson,
    output,
    print_json,
    print_table,
    settings,
)

if TYPE_CHECKING:
    from orchestration.shadow.replay import Scope

commands = typer.Typer()


@commands.command("replay")
def replay_command(
    user: Annotated[
        list[str] | None, typer.Option(help="Of this learner. May be repeated.")
    ] = None,
    in_class: Annotated[
        list[str] | None,
        typer.Option("--class", help="Of learners with an event of this class."),
    ] = None,
    course: Annotated[
        list[str] | None, typer.Option(help="Of learners with an event of this course.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="T",
            help="Of learners with an event that happened at T or later: 2026-10-01 or "
            "2026-10-01T08:00:00Z.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="T", help="... and before T.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Swap it in, in one transaction.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Put back what the last --apply replaced.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Instead: what was known at T, from what had been received by then. "
            "--user, --class and --course choose rows.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many examples of each change (1 if not given), or rows of each "
            "answer (20).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="With --as-of: write the answers there, as Parquet."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Derive again beside the live state, show what differs, and perhaps swap it in.

    Everything, or what --user, --class, --course, --from and --to choose together. Only
    --apply and --undo change anything.
    """
    from orchestration.shadow.replay import Scope

    def moment(text: str | None, option: str) -> datetime | None:
        return catalogues.parse_moment(text, option) if text else None

    scope = Scope(
        users=tuple(user or ()),
        classes=tuple(in_class or ()),
        courses=tuple(course or ()),
        since=moment(since, "--from"),
        until=moment(until, "--to"),
    )
    known_at = moment(as_of, "--as-of")
    if undo and (apply or known_at or scope.is_part):
        raise typer.BadParameter("--undo stands alone: it undoes the last --apply")
    if known_at and (apply or scope.since or scope.until):
        raise typer.BadParameter("--as-of takes only --user, --class and --course")
    if out and not known_at:
        raise typer.BadParameter("--out needs --as-of")
    if scope.since and scope.until and scope.since >= scope.until:
        raise typer.BadParameter("--from must be before --to")
    if undo:
        _undo(as_json)
    elif known_at:
        _as_of(known_at, scope, 20 if rows is None else rows, out, as_json)
    else:
        _replay(scope, apply, 1 if rows is None else rows, as_json)


def _replay(scope: "Scope", apply: bool, examples: int, as_json: bool) -> None:
    from orchestration.shadow import difference
    from orchestration.shadow.replay import replay

    found = replay(settings().warehouse, scope, apply=apply, examples=examples)
    if as_json:
        print_json(found.as_json())
        return
    learners = "" if found.learners is None else f"learners: {found.learners}, "
    print_table(
        f"Replay of {found.scope} ({learners}through load {found.through_load}, "
        f"{found.seconds:.1f} s)",
        difference.SUMMARY,
        difference.summary_rows(found.differences),
    )
    if example_rows := difference.example_rows(found.differences):
        print_table("Examples", difference.EXAMPLES, example_rows)
    if found.changed_rules and found.learners is None:
        output.print(f"changed rules: {', '.join(found.changed_rules)}", markup=False)
    if found.changed_views:
        output.print(f"changed views: {', '.join(found.changed_views)}", markup=False)
    for leftover in found.leftovers:
        output.print(
            f"left over: {leftover}: the project no longer has it; --apply drops it",
            markup=False,
            soft_wrap=True,
        )
    for note in found.notes:
        output.print(f"note: {note}", markup=False)
    if found.applied:
        output.print("Swapped in. `warehouse replay --undo` puts back what was there.")
    elif found.is_same and not (found.changed_views or found.leftovers):
        output.print("Deriving again gives what is there.")
    else:
        output.print("Nothing was changed; --apply swaps this in.")


def _undo(as_json: bool) -> None:
    from orchestration.shadow.swap import undo

    undone = undo(settings().warehouse)
    if as_json:
        print_json(undone)
        return
    print_table(
        f"Put back, as it was before {undone.scope} was applied at "
        f"{undone.applied_at:%Y-%m-%d %H:%M:%S} (UTC)",
        ["table", "rows"],
        list(undone.tables.items()),
    )


def _as_of(
    moment: datetime, scope: "Scope", rows: int, out: Path | None, as_json: bool
) -> None:
    from orchestration.shadow import difference
    from orchestration.shadow.as_of import as_of

    known = as_of(
        settings().warehouse,
        moment,
        users=scope.users,
        classes=scope.classes,
        courses=scope.courses,
        limit=rows,
        output=out,
    )
    if as_json:
        print_json(known.as_json())
        return
    output.print(
        f"As of {moment:%Y-%m-%d %H:%M:%S} (UTC), from {known.events:,} events in "
        f"{known.loads:,} loads, in {known.seconds:.1f} s:"
    )
    for answer in known.answers:
        print_table(
            f"{answer.table}: {len(answer.rows):,} of {answer.row_count:,} rows",
            answer.columns,
            [
                [
                    difference.short(cell) if isinstance(cell, list) else cell
                    for cell in row
                ]
                for row in answer.rows
            ],
        )
    if out:
        output.print(f"All rows are in {out}", markup=False)
