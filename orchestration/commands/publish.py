"""Publishing to others: `warehouse publish`."""

from typing import Annotated

import typer

from ingest.store import database
from orchestration.commands.terminal import (
    AsJson,
    errors,
    print_json,
    print_table,
)
from orchestration.outbox.integration_events import Format

commands = typer.Typer()


@commands.command()
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
