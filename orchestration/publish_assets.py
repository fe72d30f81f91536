"""Publishing in Dagster: what a refresh does by itself, and what waits for others.

The outbox and its files belong to a refresh, as its last step: local, and in the pool
`duckdb`. The POSTs are a job of their own, `publish`: a receiver that is down for a day
must not make a refresh fail, and one that is slow must not keep the next from starting.
That job is in no pool. It opens the warehouse between two batches, for milliseconds.
"""

from collections.abc import Iterator

import dagster as dg

from ingest import warehouse
from ingest.warehouse import WarehouseError, WarehouseLocked
from orchestration import publish
from orchestration.assets import POOL, RETRY_WAIT_SEC
from orchestration.integration_events import Format
from orchestration.publish import Delivery, Settings

INTEGRATION_EVENT = dg.AssetKey(["outbox", "integration_event"])
DELIVERY = dg.AssetKey(["outbox", "delivery"])


def forms_in_use(settings: Settings) -> tuple[Format, ...]:
    """CloudEvents always, xAPI where a record store is set."""
    if settings.receivers["xapi"]:
        return ("cloudevents", "xapi")
    return ("cloudevents",)


def as_table(deliveries: tuple[Delivery, ...]) -> dg.MetadataValue:
    lines = ["| target | state | sent now | place | behind | |", "|" + " --- |" * 6]
    lines += [
        f"| {d.target} | {d.state} | {d.sent} | {d.place} | {d.behind} "
        f"| {d.error or ''} |"
        for d in deliveries
    ]
    return dg.MetadataValue.md("\n".join(lines))


@dg.asset(
    key=INTEGRATION_EVENT,
    deps=[dg.AssetKey(["signals", "lms_signal"])],
    group_name="outbox",
    pool=POOL,
)
def integration_events() -> dg.MaterializeResult[None]:
    """One row per signal that was ever seen, in the order of publication; NDJSON files.

    Nothing in it changes afterwards, whatever becomes of the signal.
    """
    try:
        settings = Settings.from_environment()
        result = publish.publish_files(
            warehouse.warehouse_path(), settings, forms_in_use(settings)
        )
    except WarehouseLocked as error:
        raise dg.RetryRequested(
            max_retries=3, seconds_to_wait=RETRY_WAIT_SEC
        ) from error
    except WarehouseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if result.failures:
        failed = "; ".join(str(delivery.error) for delivery in result.failures)
        raise dg.Failure(failed, allow_retries=False)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": max(d.place for d in result.deliveries),
            "enqueued": result.enqueued,
            "folder": dg.MetadataValue.path(str(settings.folder)),
            "targets": as_table(result.deliveries),
        }
    )


@dg.asset(
    key=DELIVERY,
    deps=[INTEGRATION_EVENT],
    group_name="outbox",
    check_specs=[
        dg.AssetCheckSpec(
            "every_receiver_has_everything",
            asset=DELIVERY,
            description="Every receiver has acknowledged every event of the outbox.",
        )
    ],
)
def deliveries() -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """What each receiver has got of the outbox: POSTs from its own place on.

    One that fails makes the run fail, after the others have got theirs; the next run
    goes on where it stopped.
    """
    try:
        settings = Settings.from_environment()
        results = publish.publish_posts(
            warehouse.warehouse_path(), settings, forms_in_use(settings)
        )
    except WarehouseLocked as error:
        raise dg.RetryRequested(
            max_retries=3, seconds_to_wait=RETRY_WAIT_SEC
        ) from error
    except WarehouseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    failures = [f"{d.target}: {d.error}" for d in results if d.state == "failed"]
    table = as_table(results)
    yield dg.AssetCheckResult(
        passed=not any(d.behind for d in results),
        check_name="every_receiver_has_everything",
        metadata={"targets": table, "behind": sum(d.behind for d in results)},
    )
    if failures:
        raise dg.Failure("; ".join(failures), allow_retries=False)
    yield dg.MaterializeResult(
        metadata={"sent": sum(d.sent for d in results), "targets": table}
    )
