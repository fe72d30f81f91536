"""Landing: `warehouse land` and `warehouse catalogue`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ingest.errors import WarehouseError
from ingest.landing import catalogue as catalogues
from ingest.landing import event_files
from ingest.landing.skills import land_skills
from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    print_table,
    settings,
)

commands = typer.Typer()


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


@commands.command()
def land(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files (.ndjson, .jsonl, .json, .gz, .zst) or folders."),
    ],
    as_json: AsJson = False,
) -> None:
    """Land event files or folders of them."""
    files = event_files.event_files(paths)
    with _progress(len(files)) as advance:
        result = event_files.land(files, settings().warehouse, on_lines=advance)
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
    for folder in filter(Path.is_dir, paths):
        _, passed_over = event_files.files_below(folder)
        if line := event_files.passed_over_line(folder, passed_over):
            errors.print(f"note: {line}", markup=False)
    if not as_json and (mended := sum(load.mended for load in result.loads)):
        output.print(f"{mended:,} dead letters closed: their events have landed")
    for load in result.loads:
        if load.note:
            errors.print(f"note: {load.note}", markup=False)
    for load in result.failures:
        errors.print(f"error: {load.failed}", markup=False)
    if result.failures:
        raise typer.Exit(1)


@commands.command()
def catalogue(
    path: Annotated[
        Path | None, typer.Argument(help="A CSV file, or a folder of them.")
    ] = None,
    skills: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A CSV file `class_id,skill_id`: which classes teach which skill. It "
            "replaces the one before.",
        ),
    ] = None,
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
    """Land a catalogue snapshot, or each one in a folder; or what classes teach."""
    if (path is None) == (skills is None):
        raise WarehouseError("give a catalogue, or --skills FILE, one of them")
    if skills is not None:
        landed = land_skills(skills, settings().warehouse)
        if as_json:
            print_json(landed)
            return
        what = "known already" if landed.known else "landed"
        print_table(
            "Skills",
            ["file", "load", "classes", "skills", ""],
            [(landed.file, landed.load_id, landed.classes, landed.skills, what)],
        )
        return
    assert path is not None
    time = catalogues.parse_moment(effective_from) if effective_from else None
    loads = [
        catalogues.land_catalogue(file, settings().warehouse, effective_from=time)
        for file in catalogues.snapshot_files(path)
    ]
    if as_json:
        print_json(loads)
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
