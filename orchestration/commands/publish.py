"""Publishing to others: `warehouse publish`."""

from typing import Annotated

import typer

from orchestration.commands.terminal import (
    AsJson,
    errors,
    print_json,
    print_table,
    settings,
)
from orchestration.outbox.integration_events import Format

commands = typer.Typer()


@commands.command()
def publish(
    event_format: Annotated[
        Format, typer.Option("--format", help="The shape of what is published.")
    ] = "cloudevents",
    target: Annotated[
        str | None,
        typer.Option(help="With --from: the target whose watermark is set."),
    ] = None,
    next_sequence: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="SEQUENCE",
            min=1,
            help="Only set the target's watermark: which event it gets next, under the "
            "id that it had.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish new signals: files in LMS_OUTBOX, and POSTs to LMS_PUBLISH_URL.

    With --format xapi as statements, POSTs to LMS_XAPI_URL.
    """
    from orchestration.outbox import delivery
    from orchestration.outbox.settings import PublishSettings

    if (target is None) != (next_sequence is None):
        raise typer.BadParameter("--target and --from go together")
    path, how = settings().warehouse, PublishSettings.of(settings())
    if target is not None and next_sequence is not None:
        moved = delivery.move(path, how, target, next_sequence)
        result = delivery.Publication(0, (moved,))
    else:
        result = delivery.publish(path, how, (event_format,))
    if as_json:
        print_json(result.as_json())
    else:
        print_table(
            f"{result.enqueued:,} new events",
            ["target", "state", "sent now", "watermark", "behind"],
            [
                (entry.target, entry.state, entry.sent, entry.watermark, entry.behind)
                for entry in result.deliveries
            ],
        )
    for entry in result.deliveries:
        if entry.error:
            errors.print(f"{entry.state}: {entry.target}: {entry.error}")
    if result.failures:
        raise typer.Exit(1)
