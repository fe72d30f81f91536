"""The command `warehouse`: a thin face over functions that tests and Dagster call too.

Exit codes: 0 when all is done (lines that were rejected have found their place, too), 1
when something failed (one line on standard error says what and what to do), 2 for bad
usage.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ingest import catalogue as catalogues
from ingest import contracts, demo, landing, warehouse
from ingest.warehouse import WarehouseError

app = typer.Typer(
    name="warehouse",
    help="The event warehouse of a learning platform.",
    epilog="The warehouse is the DuckDB file at LMS_WAREHOUSE, or else "
    "data/warehouse.duckdb.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
output = Console()
if not output.is_terminal:
    output.width = 160  # a pipe has no width; rich would cut ids at 80
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Runs the command; every error that the user can mend is one line."""
    try:
        app()
    except WarehouseError as error:
        errors.print(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted: what was not finished was not written; run it again")
        sys.exit(130)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[number], int | float) or row[number] is None for row in rows
        )
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    output.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    # Ids are opaque text; rich would read [red] in one as markup.
    return str(value).replace("[", r"\[")


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
    files = landing.event_files(paths)
    with _progress(len(files)) as advance:
        result = landing.land(files, warehouse.warehouse_path(), on_lines=advance)
    if as_json:
        _print_json(result.as_json())
    else:
        totals = result.totals()
        reasons = totals.pop("rejected_by_reason")
        _print_table("What happened to every line", ["", "count"], list(totals.items()))
        if reasons:
            _print_table(
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
        catalogues.land_catalogue(file, warehouse.warehouse_path(), effective_from=time)
        for file in catalogues.snapshot_files(path)
    ]
    if as_json:
        _print_json([load.as_json() for load in loads])
        return
    _print_table(
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
    _derive(rebuild=False, as_json=as_json)


@app.command()
def rebuild(as_json: AsJson = False) -> None:
    """Derive everything again from raw."""
    _derive(rebuild=True, as_json=as_json)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Run every data test, those that scan the whole history too."""
    from orchestration import transform

    _report(transform.check(warehouse.warehouse_path()), as_json)


def _derive(*, rebuild: bool, as_json: bool) -> None:
    from orchestration import transform

    _report(transform.derive(warehouse.warehouse_path(), rebuild=rebuild), as_json)


def _report(derivation: Any, as_json: bool) -> None:
    summary = derivation.as_json()
    if as_json:
        _print_json(summary)
    else:
        output.print(
            f"{summary['models']} models, {summary['tests']} tests, "
            f"{summary['seconds']:.1f} s"
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
def status(as_json: AsJson = False) -> None:
    """Show loads, the newest event, dead letters, and how far each model is behind."""
    from orchestration.status import read_status

    state = read_status(warehouse.warehouse_path())
    if as_json:
        _print_json(state.as_json())
        return
    _print_table(
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
        _print_table(
            "Dead letters", ["reason", "lines"], list(state.dead_letters.items())
        )
    if state.models:
        _print_table(
            "What each model has taken in",
            ["model", "load", "at (UTC)", "loads behind", "events behind"],
            [tuple(vars(place).values()) for place in state.models],
        )
    else:
        output.print("Nothing is derived yet: run `warehouse refresh`.")


@app.command()
def query(
    sql: Annotated[
        str, typer.Argument(help="One SQL query; the warehouse is read only.")
    ],
    as_json: AsJson = False,
) -> None:
    """Ask the warehouse a question in SQL."""
    import duckdb

    with warehouse.open_for_reading(warehouse.warehouse_path()) as connection:
        try:
            result = connection.execute(sql)
            columns = [name for name, *_ in result.description or ()]
            rows = result.fetchall()
        except duckdb.Error as error:
            raise WarehouseError(" ".join(str(error).split())) from error
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        _print_table("", columns, rows)


@app.command("contracts")
def show_contracts(
    write: Annotated[
        bool,
        typer.Option(help="Write the JSON Schemas and the dbt macro made from them."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the event contracts, or write the files that are made from them."""
    from orchestration.transform import DBT_PROJECT

    if write:
        for path, text in contracts.generated_files(DBT_PROJECT).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    rows = [
        {
            "type": event_type,
            "version": version,
            "fields": ", ".join(contracts.field_names(contract)),
            "schema": str(
                contracts.SCHEMA_FOLDER / contracts.schema_file_name(contract)
            ),
        }
        for (event_type, version), contract in contracts.contracts().items()
    ]
    if as_json:
        _print_json(rows)
    else:
        _print_table(
            "Contracts",
            ["type", "version", "fields"],
            [(row["type"], row["version"], row["fields"]) for row in rows],
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
        _print_json(vars(summary))
    else:
        _print_table(f"Written to {path}", ["", "count"], list(vars(summary).items()))
