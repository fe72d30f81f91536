"""`warehouse report`: what the dashboard shows, as files."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.terminal import AsJson, print_json, print_table, settings

commands = typer.Typer()


@commands.command()
def report(
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    course: Annotated[
        str | None,
        typer.Option(help="Only this course; else each, and one file for all."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The first day of what is new; 28 days ago by default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report: an HTML file per course and one for all, images beside them.

    Each file needs no other: docs/report.md.
    """
    from ingest.store import outputs
    from serving.access import Scope
    from serving.reader import Follower
    from serving.report import files

    outputs.check(out / "report.html", settings().warehouse)
    follower = Follower(settings().published_snapshot, now=settings().now or None)
    with follower.reader(Scope()) as reader:
        written = files.write_all(
            reader, out, course_id=course, since=since.date() if since else None
        )
    rows = [
        (each.report.title, str(each.page), each.page.stat().st_size, len(each.images))
        for each in written
    ]
    names = ["report", "file", "bytes", "images"]
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_table("", names, rows)
