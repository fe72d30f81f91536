"""What runs when something happens: files arrive, or a run fails."""

import hashlib
import json
import os
import urllib.request
from pathlib import Path

import dagster as dg

from ingest.errors import WarehouseLocked
from ingest.landing import zone
from ingest.store import database
from orchestration.defs.jobs import is_under_way, refresh_job

ALERT_URL_VARIABLE = "LMS_ALERT_URL"


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
    if is_under_way(context.instance, refresh_job.name):
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
