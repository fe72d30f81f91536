"""Publishing in Dagster: what a refresh does by itself, and what waits for others.

The outbox and its files belong to a refresh, as its last step: local, and in the pool
`duckdb`. The POSTs are a job of their own, `publish`: a receiver that is down for a day
must not make a refresh fail, and one that is slow must not keep the next from starting.
That job is in no pool. It opens the warehouse between two batches, for milliseconds.
"""

from collections.abc import Iterator

import dagster as dg

from ingest.settings import Settings
from orchestration.defs.metadata import code_reference, sample_table
from orchestration.defs.resources import OWNERS, POOL, one_line_failures
from orchestration.outbox import delivery
from orchestration.outbox.delivery import Delivery
from orchestration.outbox.integration_events import Format
from orchestration.outbox.settings import PublishSettings

INTEGRATION_EVENT = dg.AssetKey(["outbox", "integration_event"])
DELIVERY = dg.AssetKey(["outbox", "delivery"])


def formats_in_use(settings: PublishSettings) -> tuple[Format, ...]:
    """CloudEvents always, xAPI where a record store is set."""
    if settings.receivers["xapi"]:
        return ("cloudevents", "xapi")
    return ("cloudevents",)


def as_table(deliveries: tuple[Delivery, ...]) -> dg.MetadataValue:
    columns = ["target", "state", "sent", "watermark", "behind"]
    rows = [tuple(getattr(d, column) for column in columns) for d in deliveries]
    return dg.MetadataValue.md(sample_table(rows, columns))


def fail_for(deliveries: tuple[Delivery, ...]) -> None:
    """Raises `dg.Failure` if there is one that failed, with the reason of each."""
    failures = [f"{d.target}: {d.error}" for d in deliveries if d.state == "failed"]
    if failures:
        raise dg.Failure("; ".join(failures), allow_retries=False)


@dg.asset(
    key=INTEGRATION_EVENT,
    deps=[dg.AssetKey(["signals", "lms_signal"])],
    group_name="outbox",
    owners=OWNERS,
    metadata={"dagster/code_references": code_reference(__file__)},
    kinds={"python", "json"},
    pool=POOL,
)
def integration_events(
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[None]:
    """One row per signal that was ever seen, in the order of publication; NDJSON files.

    Nothing in it changes afterwards, whatever becomes of the signal.
    """
    with one_line_failures():
        how = PublishSettings.of(settings)
        result = delivery.publish_files(settings.warehouse, how, formats_in_use(how))
    fail_for(result.deliveries)
    return dg.MaterializeResult(
        metadata={
            "enqueued": result.enqueued,
            "newest_sequence": max(d.watermark for d in result.deliveries),
            "folder": dg.MetadataValue.path(str(settings.outbox)),
            "targets": as_table(result.deliveries),
        }
    )


@dg.asset(
    key=DELIVERY,
    deps=[INTEGRATION_EVENT],
    group_name="outbox",
    owners=OWNERS,
    metadata={"dagster/code_references": code_reference(__file__)},
    kinds={"python", "json"},
    check_specs=[
        dg.AssetCheckSpec(
            "every_receiver_has_everything",
            asset=DELIVERY,
            description="Every receiver has acknowledged every event of the outbox.",
        )
    ],
)
def deliveries(
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """What each receiver has got of the outbox: POSTs from its own watermark on.

    One that fails makes the run fail, after the others have got theirs; the next run
    goes on where it stopped.
    """
    with one_line_failures():
        how = PublishSettings.of(settings)
        results = delivery.publish_posts(settings.warehouse, how, formats_in_use(how))
    behind = sum(each.behind for each in results)
    yield dg.AssetCheckResult(
        passed=not behind,
        check_name="every_receiver_has_everything",
        metadata={"behind": behind, "targets": as_table(results)},
    )
    fail_for(results)
    yield dg.MaterializeResult(
        metadata={"sent": sum(d.sent for d in results), "targets": as_table(results)}
    )
