"""The jobs that bring assets up to date, check them, or publish them."""

import dagster as dg

from orchestration.defs.derived import derived_assets
from orchestration.defs.kpi import kpi_check
from orchestration.defs.outbox import deliveries, integration_events
from orchestration.defs.raw import landing_files, raw_tables
from orchestration.defs.reconcile import reconcile_checks
from orchestration.defs.snapshot import published_snapshot

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]

# They derive everything again, which no other job is to do as well.
_RECONCILIATION = dg.AssetSelection.checks(reconcile_checks)

refresh_job = dg.define_asset_job(
    "refresh",
    selection=dg.AssetSelection.assets(
        landing_files,
        raw_tables,
        derived_assets,
        integration_events,
        published_snapshot,
    )
    - _RECONCILIATION,
    description="Lands what has arrived, brings everything derived up to date, "
    "publishes it for readers, and puts new signals into the outbox.",
)

rebuild_job = dg.define_asset_job(
    "rebuild",
    selection=dg.AssetSelection.assets(derived_assets, published_snapshot)
    - _RECONCILIATION,
    config={"ops": {"derive": {"config": {"rebuild": True}}}},
    description="Derives everything again from raw, and publishes it for readers.",
)

checks_job = dg.define_asset_job(
    "checks",
    selection=dg.AssetSelection.checks_for_assets(derived_assets) - _RECONCILIATION,
    description="Runs every data test, those over the whole history too.",
)

reconcile_job = dg.define_asset_job(
    "reconcile",
    selection=_RECONCILIATION,
    description="Proves that all that is derived agrees with raw.",
)

kpis_job = dg.define_asset_job(
    "kpis",
    selection=dg.AssetSelection.checks(kpi_check),
    description="Says which key figures are past their level.",
)

# Apart from `refresh`: a receiver that is down or slow must hold up nobody else.
publish_job = dg.define_asset_job(
    "publish",
    selection=dg.AssetSelection.assets(deliveries),
    description="Sends receivers what they have not got yet of the outbox.",
)


def is_under_way(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of the job is queued or running."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job, statuses=_UNFINISHED), limit=1)
    return bool(runs)
