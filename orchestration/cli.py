"""The command `warehouse`: a thin face over functions that tests and Dagster call too.

Exit codes: 0 when all is done (lines that were rejected have found their place, too), 1
when something failed (one line on standard error says what and what to do), 2 for bad
usage.
"""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import duckdb
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ingest import demo
from ingest.contracts import events, versions
from ingest.landing import catalogue as catalogues
from ingest.landing import dead_letters, event_files
from ingest.landing.dead_letters import Selection
from ingest.store import database
from ingest.store.database import WarehouseError
from orchestration.commands import collect, lms
from orchestration.commands.readers import commands as reader_commands
from orchestration.commands.terminal import (
    AsJson,
    cell,
    errors,
    output,
    print_json,
    print_table,
    short_path,
)
from orchestration.outbox import integration_events
from orchestration.outbox.integration_events import Format

app = typer.Typer(
    name="warehouse",
    help="The event warehouse of a learning platform.",
    epilog="The warehouse is the DuckDB file at LMS_WAREHOUSE, or else "
    "data/warehouse.duckdb.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
dead_letters_app = typer.Typer(
    help="Lines that were not accepted: look at them, send them again, discard them.",
    no_args_is_help=True,
)
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(reader_commands)
collect.add_to(app)
app.add_typer(lms.app)


# What DuckDB raises where a write or, for want of it, a commit fails.
_OF_THE_DISK = (
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.FatalException,
)


def main() -> None:
    """Runs the command; every error that the user can mend is one line."""
    try:
        app()
    except WarehouseError as error:
        errors.print(f"error: {error}")
        sys.exit(1)
    except (*_OF_THE_DISK, OSError) as error:
        errors.print(
            f"error: {str(error).splitlines()[0]}; what was not finished was not "
            "written: if the disk is full make room, and run it again"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted: what was not finished was not written; run it again")
        sys.exit(130)


@contextmanager
def _progress(total_files: int) -> Iterator[Any]:
    """A progress bar on a terminal; elsewhere nothing."""
    if not errors.is_terminal:
        yield lambda _file, _count: None
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,} lines"),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
    ) as progress:
        task = progress.add_task(f"landing {total_files} files", total=None)

        def advance(file: Path, count: int) -> None:
            progress.update(task, advance=count, description=f"landing {file.name}")

        yield advance


@app.command()
def land(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files (.ndjson, .jsonl, .gz, .zst) or folders."),
    ],
    as_json: AsJson = False,
) -> None:
    """Land event files or folders of them."""
    files = event_files.event_files(paths)
    with _progress(len(files)) as advance:
        result = event_files.land(files, database.warehouse_path(), on_lines=advance)
    if as_json:
        print_json(result.as_json())
    else:
        totals = result.totals()
        reasons = totals.pop("rejected_by_reason")
        print_table("What happened to every line", ["", "count"], list(totals.items()))
        if reasons:
            print_table(
                "Rejected, by reason", ["reason", "lines"], list(reasons.items())
            )
    for load in result.failures:
        errors.print(f"error: {load.failed}")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def catalogue(
    path: Annotated[Path, typer.Argument(help="A CSV file, or a folder of them.")],
    effective_from: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="From when it holds: 2026-10-01 or 2026-10-01T08:00:00Z. Else the "
            "time in its name (effective_from=2026-10-01.csv), or else now. The first "
            "snapshot holds from the beginning.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Land a catalogue snapshot, or each one in a folder."""
    time = catalogues.parse_effective_from(effective_from) if effective_from else None
    loads = [
        catalogues.land_catalogue(file, database.warehouse_path(), effective_from=time)
        for file in catalogues.snapshot_files(path)
    ]
    if as_json:
        print_json([load.as_json() for load in loads])
        return
    print_table(
        "Catalogue",
        ["file", "load", "effective from", "classes", "courses", ""],
        [
            (
                load.file,
                load.load_id,
                load.effective_from,
                load.classes,
                load.courses,
                "known already" if load.known else "landed",
            )
            for load in loads
        ],
    )


@app.command()
def refresh(as_json: AsJson = False) -> None:
    """Bring everything derived up to date, incrementally."""
    _refresh(rebuild=False, as_json=as_json)


@app.command()
def rebuild(as_json: AsJson = False) -> None:
    """Derive everything again from raw."""
    _refresh(rebuild=True, as_json=as_json)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Run every data test, those that scan the whole history too."""
    from orchestration.derive import dbt_runner

    checked = dbt_runner.check(database.warehouse_path())
    _report(checked, checked.as_json() if as_json else None)


@app.command("replay")
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
        return catalogues.parse_effective_from(text, option) if text else None

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


def _replay(scope: Any, apply: bool, examples: int, as_json: bool) -> None:
    from orchestration.shadow import difference
    from orchestration.shadow.replay import replay

    found = replay(database.warehouse_path(), scope, apply=apply, examples=examples)
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
    for note in found.notes:
        output.print(f"note: {note}", markup=False)
    if found.applied:
        output.print("Swapped in. `warehouse replay --undo` puts back what was there.")
    elif found.is_same and not found.changed_views:
        output.print("Deriving again gives what is there.")
    else:
        output.print("Nothing was changed; --apply swaps this in.")


def _undo(as_json: bool) -> None:
    from orchestration.shadow.swap import undo

    undone = undo(database.warehouse_path())
    if as_json:
        print_json(undone.as_json())
        return
    print_table(
        f"Put back, as it was before {undone.scope} was applied at "
        f"{undone.applied_at:%Y-%m-%d %H:%M:%S} (UTC)",
        ["table", "rows"],
        list(undone.tables.items()),
    )


def _as_of(
    moment: datetime, scope: Any, rows: int, out: Path | None, as_json: bool
) -> None:
    from orchestration.shadow import difference
    from orchestration.shadow.as_of import as_of

    known = as_of(
        database.warehouse_path(),
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


def _refresh(*, rebuild: bool, as_json: bool) -> None:
    from orchestration.refresh import refresh

    result = refresh(database.warehouse_path(), rebuild=rebuild)
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


def _report(derivation: Any, as_json: dict[str, Any] | None) -> None:
    """Prints what dbt did, or `as_json` instead; exits with 1 if it failed."""
    summary = derivation.as_json()
    if as_json is not None:
        print_json(as_json)
    elif derivation.nothing_new:
        output.print(f"nothing new, {summary['seconds']:.1f} s")
    else:
        output.print(
            f"{summary['models']} models"
            + (", views as they were" if derivation.views_stand else "")
            + f", {summary['tests']} tests, {summary['seconds']:.1f} s"
            + ("" if derivation.succeeded else ", with failures")
        )
        for node in derivation.nodes:
            if node.warned:
                output.print(f"warning: {node.name}: {node.message}", markup=False)
    for node in derivation.failures:
        message = " ".join((node.message or "").split())
        errors.print(f"error: {node.name}: {message}")
    if summary["skipped"]:
        errors.print(f"skipped because of that: {', '.join(summary['skipped'])}")
    if not derivation.succeeded:
        raise typer.Exit(1)


@app.command()
def publish(
    form: Annotated[
        Format, typer.Option("--format", help="The shape of what is published.")
    ] = "cloudevents",
    target: Annotated[
        str | None,
        typer.Option(help="With --from: the target whose place is set."),
    ] = None,
    next_sequence: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="SEQUENCE",
            min=1,
            help="Only set the target's place: what it gets next, the same ids again.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish new signals: files in LMS_OUTBOX, and POSTs to LMS_PUBLISH_URL.

    With --format xapi as statements, POSTs to LMS_XAPI_URL.
    """
    from orchestration.outbox import publish as publishing

    if (target is None) != (next_sequence is None):
        raise typer.BadParameter("--target and --from go together")
    path, settings = database.warehouse_path(), publishing.Settings.from_environment()
    if target is not None and next_sequence is not None:
        moved = publishing.move(path, settings, target, next_sequence)
        result = publishing.Publication(0, (moved,))
    else:
        result = publishing.publish(path, settings, (form,))
    if as_json:
        print_json(result.as_json())
    else:
        print_table(
            f"{result.enqueued:,} new events",
            ["target", "state", "sent now", "place", "behind"],
            [
                (entry.target, entry.state, entry.sent, entry.place, entry.behind)
                for entry in result.deliveries
            ],
        )
    for delivery in result.deliveries:
        if delivery.error:
            errors.print(f"{delivery.state}: {delivery.target}: {delivery.error}")
    if result.failures:
        raise typer.Exit(1)


@app.command("erase")
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
    from ingest.collector import app
    from orchestration.erasure import erase

    users = [*(user or ()), *(erase.read_users_file(users_file) if users_file else ())]
    collectors = [path for path in [app.spool_path()] if path.is_dir()]
    if not users:
        raise typer.BadParameter("give --user or --users-file")
    result = erase.erase(
        database.warehouse_path(),
        users,
        erase.Places.from_environment(spool or collectors),
        reason=reason,
        dry_run=dry_run,
    )
    if as_json:
        print_json(result.as_json())
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
    for file in result.in_use:
        errors.print(f"in use: {file}: close its writer, and run this again")
    for file in result.left:
        errors.print(f"not the warehouse's, and has an id in it: {file}")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show loads, the newest event, dead letters, and how far each model is behind."""
    from orchestration.status import read_status

    state = read_status(database.warehouse_path())
    if as_json:
        print_json(state.as_json())
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
            [tuple(vars(place).values()) for place in state.models],
        )
    else:
        output.print("Nothing is derived yet: run `warehouse refresh`.")


@app.command("contracts")
def show_contracts(
    write: Annotated[
        bool,
        typer.Option(help="Write what is made from the contracts; list what changed."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the versions of every event type, and what of each was seen."""
    if write:
        changed = _write_contracts()
        if as_json:
            print_json(changed)
        else:
            output.print("\n".join(changed) or "nothing changed", markup=False)
        return
    usage = versions.usage(database.warehouse_path())
    if as_json:
        print_json([version.as_json() for version in usage])
        return
    print_table(
        "Contracts",
        ["type", "version", "status", "rows seen", "last seen (UTC)", "fields"],
        [
            (
                version.type,
                version.version,
                version.status,
                version.rows_seen,
                version.last_seen,
                version.fields,
            )
            for version in usage
        ],
    )


def _write_contracts() -> list[str]:
    """Writes the files that are not as the contracts want them, and returns those."""
    from orchestration.derive.dbt_runner import DBT_PROJECT

    files = {
        **versions.new_states(),
        **events.generated_files(DBT_PROJECT),
        **integration_events.generated_files(),
    }
    changed = []
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(str(path.relative_to(DBT_PROJECT.parent)))
    return changed


@app.command()
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

    result = prove(database.warehouse_path(), repair=repair, examples=examples)
    if as_json:
        print_json(result.as_json())
    else:
        _show_reconciliation(result)
    if not result.agrees:
        raise typer.Exit(1)


def _show_reconciliation(result: Any) -> None:
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


# --- dead letters --------------------------------------------------------------------

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
OlderThan = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Only first seen longer ago: 30m, 24h, 7d, 2w."),
]
NewerThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Only first seen since: 30m, 24h, ...")
]
All = Annotated[bool, typer.Option("--all", help="All that there are.")]


def _selection(
    ids: list[str] | None,
    reasons: list[str] | None,
    load_ids: list[int] | None,
    types: list[str] | None,
    older_than: str | None,
    newer_than: str | None,
) -> Selection:
    return Selection(
        letters=tuple(dead_letters.parse_letter_id(text) for text in ids or ()),
        reasons=tuple(reasons or ()),
        load_ids=tuple(load_ids or ()),
        types=tuple(types or ()),
        older_than=dead_letters.parse_age(older_than) if older_than else None,
        newer_than=dead_letters.parse_age(newer_than) if newer_than else None,
    )


def _check_chosen(selection: Selection, everything: bool) -> None:
    """What changes something is never done to all by leaving out the choice."""
    if selection.is_everything != everything:
        raise typer.BadParameter("name dead letters or filters, or else give --all")


@dead_letters_app.command("list")
def list_dead_letters(
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters: where each came from and why it was not accepted."""
    selection = _selection(ids, reasons, load_ids, types, older_than, newer_than)
    found = dead_letters.list_letters(database.warehouse_path(), selection, limit=limit)
    if as_json:
        letters = [letter.as_json(with_line=False) for letter in found.letters]
        print_json({"total": found.total, "letters": letters})
        return
    print_table(
        f"{found.total:,} dead letters"
        + (f", the first {limit:,}" if found.total > limit else ""),
        ["id", "reason", "field", "detail", "type", "first seen (UTC)", "attempts"],
        [
            (
                *(letter.id, letter.reason, letter.field, letter.detail),
                *(letter.type, letter.first_seen, letter.attempts),
            )
            for letter in found.letters
        ],
    )


@dead_letters_app.command("show")
def show_dead_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Like 3:17.")],
    as_json: AsJson = False,
) -> None:
    """Show one line that is or was a dead letter, and what was done about it."""
    history = dead_letters.show(
        database.warehouse_path(), dead_letters.parse_letter_id(letter_id)
    )
    if as_json:
        print_json(history.as_json())
        return
    rows: list[tuple[str, object]] = [("state", history.state)]
    if history.letter:
        letter = history.letter.as_json(with_line=False)
        rows += [(name, value) for name, value in letter.items() if name != "id"]
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


@dead_letters_app.command("export")
def export_dead_letters(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    with_reasons: Annotated[
        bool,
        typer.Option(help="Write JSON objects with reason, place and line."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write lines to a file as they came, to mend them and send them as new ones."""
    result = dead_letters.export(
        database.warehouse_path(),
        file,
        _selection(ids, reasons, load_ids, types, older_than, newer_than),
        with_reasons=with_reasons,
    )
    if as_json:
        print_json(vars(result))
    else:
        output.print(f"{result.lines:,} lines written to {file}", markup=False)
    _say_truncated(result.truncated)


@dead_letters_app.command("retry")
def retry_dead_letters(
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    everything: All = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what would become of them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters through today's contracts again, as a load of its own."""
    selection = _selection(ids, reasons, load_ids, types, older_than, newer_than)
    _check_chosen(selection, everything)
    result = dead_letters.retry(database.warehouse_path(), selection, dry_run=dry_run)
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


RETRY_OUTCOMES = (
    *("lines_read", "accepted", "duplicate", "conflict", "rejected", "erased"),
)


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


@dead_letters_app.command("discard")
def discard_dead_letters(
    why: Annotated[str, typer.Option(help="Why; it is kept with them.")],
    ids: Ids = None,
    reasons: Reasons = None,
    load_ids: LoadIds = None,
    types: Types = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    everything: All = False,
    by: Annotated[
        str | None, typer.Option(help="Who; else the user of this machine.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say how many.")] = False,
    as_json: AsJson = False,
) -> None:
    """Discard dead letters for good, with a record of who, when and why."""
    selection = _selection(ids, reasons, load_ids, types, older_than, newer_than)
    _check_chosen(selection, everything)
    count = dead_letters.discard(
        database.warehouse_path(),
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


@app.command("demo-data")
def demo_data(
    path: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    learners: Annotated[int, typer.Option(min=1)] = 60,
    days: Annotated[int, typer.Option(min=1)] = 21,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Write a realistic landing zone, with all that goes wrong in one."""
    try:
        summary = demo.write_demo_data(path, learners=learners, days=days, seed=seed)
    except OSError as error:
        raise WarehouseError(str(error)) from error
    if as_json:
        print_json(vars(summary))
    else:
        print_table(f"Written to {path}", ["", "count"], list(vars(summary).items()))
