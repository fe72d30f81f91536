"""Reconciling as a job: a check on every asset that is compared with raw."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ingest import warehouse
from ingest.warehouse import WarehouseError, WarehouseLocked
from orchestration.assets import LOAD, POOL, RETRY_WAIT_SEC, derived_assets
from orchestration.reconcile import Reconciliation, reconcile

CHECK = "agrees_with_raw"


class ReconcileConfig(dg.Config):
    """`repair` derives what differs again."""

    repair: bool = False


@dg.multi_asset_check(
    name="compare_with_raw",
    pool=POOL,
    specs=[
        dg.AssetCheckSpec(
            CHECK,
            asset=LOAD,
            description="Every line of every load is an event, a duplicate, a dead "
            "letter or discarded, and none is lost.",
        ),
        *(
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="Deriving it again from raw gives what is there; events "
                "that signals name are there.",
            )
            for key in sorted(derived_assets.keys)
        ),
    ],
    # Dagster adds the checks of an asset that is materialised by itself.
    can_subset=True,
)
def reconcile_checks(
    context: dg.AssetCheckExecutionContext, config: ReconcileConfig
) -> Iterator[dg.AssetCheckResult]:
    """Derives everything again beside the live state, and says what differs.

    Runs the function that `warehouse reconcile` runs. Without `repair` it only reads.
    All assets or none: it does nothing in a run that derives only some of them again.
    """
    if len(context.selected_asset_check_keys) <= len(derived_assets.keys):
        context.log.info("not compared with raw: the job `reconcile` does that for all")
        return
    try:
        found = reconcile(warehouse.warehouse_path(), repair=config.repair)
    except WarehouseLocked as error:
        raise dg.RetryRequested(
            max_retries=3, seconds_to_wait=RETRY_WAIT_SEC
        ) from error
    except WarehouseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    for note in (*found.notes, *(f"repaired: {line}" for line in found.repaired)):
        context.log.info(note)
    yield from _results(found)
    if not found.agrees:
        raise dg.Failure("; ".join(found.problems), allow_retries=False)


def _results(found: Reconciliation) -> Iterator[dg.AssetCheckResult]:
    problems = found.problems_by_asset
    tables = {table.table: table for table in found.tables}
    for key in (LOAD, *sorted(derived_assets.keys)):
        name = ".".join(key.path)
        metadata: dict[str, Any] = {"problems": problems.get(name, [])}
        if key == LOAD:
            metadata |= {**vars(found.lines), "unaccounted": found.lines.unaccounted}
        if table := tables.get(name):
            metadata |= {"rows": table.live_rows or 0, "hash": table.live_hash or ""}
        # Where deriving again failed, what it would have given is not known.
        is_unknown = found.failure is not None and key != LOAD and not table
        if is_unknown:
            metadata["not_compared"] = found.failure
        yield dg.AssetCheckResult(
            passed=name not in problems and not is_unknown,
            asset_key=key,
            check_name=CHECK,
            metadata=metadata,
        )
