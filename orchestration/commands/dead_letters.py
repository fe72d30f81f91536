"""Lines that were not accepted: `warehouse dead-letters`."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from ingest.landing import dead_letters
from ingest.landing.dead_letters import Letter, Selection
from orchestration.commands.terminal import (
    AsJson,
    cell,
    errors,
    output,
    print_json,
    print_table,
    settings,
)

commands = typer.Typer(
    name="dead-letters",
    help="Lines that were not accepted: look at them, send them again, discard them.",
    no_args_is_help=True,
)


Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Dead letters by load and line, like 3:17."),
]
Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Only with this reason; may be given several times."),
]
LoadIds = Annotated[list[int] | None, typer.Option("--load", help="Only of this load.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="Only of this event type, where the line says it."),
]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="Only with a fault in this field: payload.score."),
]
LandedSince = Annotated[
    bool, typer.Option("--landed-since", help="Only whose event has come since.")
]
OlderThan = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Only first seen longer ago: 30m, 24h, 7d, 2w."),
]
NewerThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Only first seen since: 30m, 24h, ...")
]
All = Annotated[bool, typer.Option("--all", help="All that there are.")]

RETRY_OUTCOMES = (
    *("lines_read", "accepted", "duplicate", "conflict", "rejected", "erased"),
)


def _selection(
    ids: list[str] | None,
    reasons: list[str] | None,
    load_ids: list[int] | None,
    types: list[str] | None,
    older_than: str | None,
    newer_than: str | None,
    fields: list[str] | None,
    landed_since: bool,
) -> Selection:
    return Selection(
        letters=tuple(dead_letters.parse_letter_id(text) for text in ids or ()),
        reasons=tuple(reasons or ()),
        load_ids=tuple(load_ids or ()),
        types=tuple(types or ()),
        older_than=dead_letters.parse_age(older_than) if older_than else None,
        newer_than=dead_letters.parse_age(newer_than) if newer_than else None,
        fields=tuple(fields or ()),
        landed_since=landed_since,
    )


def _check_chosen(selection: Selection, everything: bool) -> None:
    """What changes something is never done to all by leaving out the choice."""
    if selection.is_everything != everything:
        raise typer.BadParameter("name dead letters or filters, or else give --all")


@commands.command("list")
def list_dead_letters(
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    fields: Fields = None,
    landed_since: LandedSince = False,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters: where each came from and why it was not accepted."""
    selection = _selection(
        ids, reasons, load_ids, types, older_than, newer_than, fields, landed_since
    )
    found = dead_letters.list_letters(settings().warehouse, selection, limit=limit)
    if as_json:
        letters = [letter.as_json(with_line=False) for letter in found.letters]
        print_json({"total": found.total, "letters": letters})
        return
    print_table(
        f"{found.total:,} dead letters"
        + (f", the first {limit:,}" if found.total > limit else ""),
        [
            *("id", "reason", "field", "value", "detail", "type"),
            *("first seen (UTC)", "attempts"),
        ],
        [
            (
                *(letter.id, letter.reason, letter.field, _refused(letter)),
                *(letter.detail, letter.type, letter.first_seen, letter.attempts),
            )
            for letter in found.letters
        ],
    )


def _refused(letter: Letter) -> str | None:
    """The value that was refused, and how many faults more the line has."""
    first, *more = letter.as_json(with_line=False)["faults"] or [{"value": None}]
    value = first["value"] or ""
    shown = f"{value[:37]}..." if len(value) > 40 else value
    return f"{shown} (+{len(more)})".strip() if more else shown or None


@commands.command("show")
def show_dead_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Like 3:17.")],
    as_json: AsJson = False,
) -> None:
    """Show one line that is or was a dead letter, and what was done about it."""
    history = dead_letters.show(
        settings().warehouse, dead_letters.parse_letter_id(letter_id)
    )
    if as_json:
        print_json(history.as_json())
        return
    rows: list[tuple[str, object]] = [("state", history.state)]
    if history.letter:
        letter = history.letter.as_json(with_line=False)
        faults = letter.pop("faults")
        rows += [(name, value) for name, value in letter.items() if name != "id"]
        rows += [
            (
                f"fault {number}",
                f"{fault['reason']} {fault['field'] or ''}: {fault['detail']}"
                + (f"; got {fault['value']}" if fault["value"] else ""),
            )
            for number, fault in enumerate(faults, 1)
        ]
    rows += [
        (
            f"retry, load {attempt.load_id}",
            f"{attempt.outcome}, {cell(attempt.retried_at)}",
        )
        for attempt in history.attempts
    ]
    if history.discarded:
        rows += list(vars(history.discarded).items())
    print_table(f"Dead letter {history.id}", ["", "value"], rows)
    if history.letter:
        output.print(history.letter.text, markup=False, soft_wrap=True, highlight=False)


@commands.command("export")
def export_dead_letters(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    fields: Fields = None,
    landed_since: LandedSince = False,
    with_reasons: Annotated[
        bool,
        typer.Option(help="Write JSON objects with reason, place and line."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write lines to a file as they came, to mend them and send them as new ones."""
    result = dead_letters.export(
        settings().warehouse,
        file,
        _selection(
            ids, reasons, load_ids, types, older_than, newer_than, fields, landed_since
        ),
        with_reasons=with_reasons,
    )
    if as_json:
        print_json(vars(result))
    else:
        output.print(f"{result.lines:,} lines written to {file}", markup=False)
    _say_truncated(result.truncated)


@commands.command("retry")
def retry_dead_letters(
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    fields: Fields = None,
    landed_since: LandedSince = False,
    everything: All = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what would become of them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters through today's contracts again, as a load of its own."""
    selection = _selection(
        ids, reasons, load_ids, types, older_than, newer_than, fields, landed_since
    )
    _check_chosen(selection, everything)
    result = dead_letters.retry(settings().warehouse, selection, dry_run=dry_run)
    if as_json:
        print_json(vars(result))
    else:
        print_table(
            "What would become of every line"
            if dry_run
            else "What became of every line",
            ["", "lines"],
            [
                *((name, getattr(result, name)) for name in RETRY_OUTCOMES),
                *(
                    (f"rejected: {reason}", count)
                    for reason, count in result.rejected_by_reason.items()
                ),
            ],
        )
        if result.load_id is not None:
            output.print(
                f"Load {result.load_id}."
                + (" `warehouse refresh` derives from it." if result.accepted else "")
            )
    _say_truncated(result.truncated)


def _say_truncated(count: int) -> None:
    if count:
        errors.print(
            f"left out: {count} lines over 1 MiB, of which only the start was kept; "
            "ask their sender for them, or discard them"
        )


def _this_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise typer.BadParameter("this user has no name: give --by") from None


@commands.command("discard")
def discard_dead_letters(
    why: Annotated[str, typer.Option(help="Why; it is kept with them.")],
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    fields: Fields = None,
    landed_since: LandedSince = False,
    everything: All = False,
    by: Annotated[
        str | None, typer.Option(help="Who; else the user of this machine.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say how many.")] = False,
    as_json: AsJson = False,
) -> None:
    """Discard dead letters for good, with a record of who, when and why."""
    selection = _selection(
        ids, reasons, load_ids, types, older_than, newer_than, fields, landed_since
    )
    _check_chosen(selection, everything)
    count = dead_letters.discard(
        settings().warehouse,
        selection,
        by=_this_user() if by is None else by,
        why=why,
        dry_run=dry_run,
    )
    if as_json:
        print_json({"discarded": count, "dry_run": dry_run})
    else:
        output.print(
            f"{count:,} dead letters {'would be ' if dry_run else ''}discarded"
        )
