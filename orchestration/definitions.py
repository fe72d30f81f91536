"""What Dagster runs, and when. `workspace.yaml` loads `defs` from here."""

import gc
import hashlib
import json
import os
import urllib.request
from pathlib import Path

import dagster as dg

from ingest.landing import zone
from ingest.store import database
from ingest.store.database import WarehouseLocked
from orchestration.defs.derived import derived_assets, landing_files, raw_tables
from orchestration.defs.lms import import_lms_job
from orchestration.defs.outbox import deliveries, integration_events
from orchestration.defs.reconcile import reconcile_checks, reconciliation
from orchestration.defs.replay import as_of_job, replay_job
from orchestration.defs.snapshot import published_snapshot
from orchestration.outbox.publish import RECEIVERS_VARIABLE, Settings

# A run makes a million objects that live as long as it does: looking through them for
# cycles after every 700 is a twentieth of it.
gc.set_threshold(100_000)

REFRESH_CRON = os.environ.get("LMS_REFRESH_CRON") or "*/5 * * * *"
PUBLISH_CRON = os.environ.get("LMS_PUBLISH_CRON") or "*/5 * * * *"
CHECKS_CRON = os.environ.get("LMS_CHECKS_CRON") or "30 3 * * *"
RECONCILE_CRON = os.environ.get("LMS_RECONCILE_CRON") or "0 4 * * *"
ALERT_URL_VARIABLE = "LMS_ALERT_URL"

_UNDER_WAY = [
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

# Apart from `refresh`: a receiver that is down or slow must hold up nobody else.
publish_job = dg.define_asset_job(
    "publish",
    selection=dg.AssetSelection.assets(deliveries),
    description="Sends receivers what they have not got yet of the outbox.",
)


def _is_under_way(instance: dg.DagsterInstance, job: str = refresh_job.name) -> bool:
    runs = instance.get_runs(dg.RunsFilter(job_name=job, statuses=_UNDER_WAY), limit=1)
    return bool(runs)


@dg.schedule(
    job=refresh_job,
    cron_schedule=REFRESH_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def refresh_schedule(
    context: dg.ScheduleEvaluationContext,
) -> dg.RunRequest | dg.SkipReason:
    """Refreshes every few minutes, unless a refresh is queued or running already."""
    if _is_under_way(context.instance):
        return dg.SkipReason("a refresh is queued or running; it takes what has come")
    return dg.RunRequest()


@dg.schedule(
    job=publish_job,
    cron_schedule=PUBLISH_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def publish_schedule(
    context: dg.ScheduleEvaluationContext,
) -> dg.RunRequest | dg.SkipReason:
    """Sends every few minutes, if there is a receiver and no sending is under way."""
    if not any(Settings.from_environment().receivers.values()):
        variables = " nor ".join(RECEIVERS_VARIABLE.values())
        return dg.SkipReason(f"no receiver: neither {variables} is set")
    if _is_under_way(context.instance, publish_job.name):
        return dg.SkipReason("receivers are being told; that run takes what has come")
    return dg.RunRequest()


checks_schedule = dg.ScheduleDefinition(
    job=checks_job,
    cron_schedule=CHECKS_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


reconcile_schedule = dg.ScheduleDefinition(
    job=reconcile_job,
    cron_schedule=RECONCILE_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


def _listing(files: list[Path]) -> str:
    """Names the state of the landing zone without reading any file."""
    entries = [
        (str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files
    ]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


@dg.sensor(
    job=refresh_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def landing_zone_sensor(
    context: dg.SensorEvaluationContext,
) -> dg.SensorResult | dg.SkipReason:
    """Asks for a refresh when there is a file whose content no load has.

    Its cursor names the last state of the folder it has answered to, so that a file
    that cannot be landed does not start a run at each tick.
    """
    files = zone.files_in(database.landing_zone_path())
    listing = _listing(files)
    if listing == context.cursor:
        return dg.SkipReason("nothing has changed in the landing zone")
    if _is_under_way(context.instance):
        return dg.SkipReason("a refresh is queued or running; looking again after it")
    try:
        pending = zone.pending(files, database.warehouse_path(), wait_sec=2)
    except WarehouseLocked:
        return dg.SkipReason("the warehouse is being written; looking again later")
    if not pending:
        return dg.SensorResult(
            skip_reason="every file was landed before", cursor=listing
        )
    names = ", ".join(file.name for file in pending[:3])
    context.log.info(f"{len(pending)} files to land: {names}")
    return dg.SensorResult(
        run_requests=[dg.RunRequest(tags={"lms/files_to_land": str(len(pending))})],
        cursor=listing,
    )


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=15
)
def run_failure_alert(context: dg.RunFailureSensorContext) -> None:
    """Says which run failed and why: in the log and, if `LMS_ALERT_URL` is set, there.

    The URL gets a POST of JSON: `job`, `run_id`, `error`.
    """
    steps = [
        f"{event.step_key}: {event.step_failure_data.error_display_string.strip()}"
        for event in context.get_step_failure_events()
    ]
    error = " ".join("; ".join(steps or [context.failure_event.message or ""]).split())
    run = context.dagster_run
    context.log.error(f"run {run.run_id} of {run.job_name} failed: {error}")
    url = os.environ.get(ALERT_URL_VARIABLE)
    if url:
        body = {"job": run.job_name, "run_id": run.run_id, "error": error}
        request = urllib.request.Request(
            url,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10):
            context.log.info("posted to the alert URL")


defs = dg.Definitions(
    assets=[
        landing_files,
        raw_tables,
        derived_assets,
        reconciliation,
        integration_events,
        deliveries,
        published_snapshot,
    ],
    asset_checks=[reconcile_checks],
    jobs=[
        *(refresh_job, rebuild_job, checks_job, reconcile_job),
        *(publish_job, replay_job, as_of_job, import_lms_job),
    ],
    schedules=[
        *(refresh_schedule, checks_schedule, reconcile_schedule),
        publish_schedule,
    ],
    sensors=[landing_zone_sensor, run_failure_alert],
    # One writer: more processes would only wait for each other, and cost 8 CPU-seconds.
    executor=dg.in_process_executor,
)
