"""Reconciling as a job: a check on every asset that is compared with raw."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ingest.settings import Settings
from orchestration.defs.derived import derived_assets
from orchestration.defs.metadata import code_reference
from orchestration.defs.raw import LOAD
from orchestration.defs.resources import OWNERS, POOL, one_line_failures
from orchestration.shadow.reconcile import Reconciliation, reconcile

CHECK = "agrees_with_raw"
COMPARED = (LOAD, *sorted(derived_assets.keys))

# A check turns grey when its asset is materialised again, every few minutes here. This
# asset never is: what the last comparison found stays until the next.
RECONCILIATION = dg.AssetKey(["monitoring", "reconciliation"])

reconciliation = dg.AssetSpec(
    RECONCILIATION,
    deps=COMPARED,
    group_name="monitoring",
    owners=OWNERS,
    metadata={"dagster/code_references": code_reference(__file__)},
    kinds={"python"},
    description="Whether all that is derived agreed with raw when that was last looked "
    "at. No table: the place of a check that stays red.",
)


class ReconcileConfig(dg.Config):
    """`repair` derives what differs again."""

    repair: bool = False


@dg.multi_asset_check(
    name="compare_with_raw",
    pool=POOL,
    specs=[
        dg.AssetCheckSpec(
            CHECK,
            asset=RECONCILIATION,
            description="What the last comparison found, until the next one.",
        ),
        dg.AssetCheckSpec(
            CHECK,
            asset=LOAD,
            description="Every line of every load is an event, a duplicate, a dead "
            "letter, discarded or erased, and none is lost.",
        ),
        *(
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="Deriving it again from raw gives what is there; events "
                "that signals name are there. Until the asset is derived again.",
            )
            for key in sorted(derived_assets.keys)
        ),
    ],
    # Dagster adds the checks of an asset that is materialised by itself.
    can_subset=True,
)
def reconcile_checks(
    context: dg.AssetCheckExecutionContext,
    config: ReconcileConfig,
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.AssetCheckResult]:
    """Derives everything again beside the live state, and says what differs.

    Runs the function that `warehouse reconcile` runs. Without `repair` it only reads.
    It does nothing in a run that materialises assets, with whose checks it came along.
    """
    selected = {key.asset_key for key in context.selected_asset_check_keys}
    if RECONCILIATION not in selected:
        context.log.info("not compared with raw: the job `reconcile` does that for all")
        return
    with one_line_failures():
        found = reconcile(settings.warehouse, repair=config.repair)
    for note in (*found.notes, *(f"repaired: {line}" for line in found.repaired)):
        context.log.info(note)
    yield dg.AssetCheckResult(
        passed=found.agrees,
        asset_key=RECONCILIATION,
        check_name=CHECK,
        metadata={
            "problems": "; ".join(found.problems) or "none",
            "repaired": "; ".join(found.repaired) or "nothing",
        },
    )
    yield from (result for result in _results(found) if result.asset_key in selected)
    if not found.agrees:
        raise dg.Failure("; ".join(found.problems), allow_retries=False)


def _results(found: Reconciliation) -> Iterator[dg.AssetCheckResult]:
    problems = found.problems_by_asset
    tables = {table.table: table for table in found.tables}
    for key in COMPARED:
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
