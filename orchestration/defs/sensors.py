"""What runs when something happens: files arrive, or a run fails."""

import functools
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from ingest.errors import WarehouseLocked
from ingest.landing import zone
from ingest.settings import Settings
from orchestration.defs.jobs import is_under_way, refresh_job
from orchestration.defs.snapshot import SNAPSHOT


def _listing(files: list[Path]) -> str:
    """Names the state of the landing zone without reading any file."""
    entries = [
        (str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files
    ]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


@dataclass(frozen=True)
class _Look:
    """What a landing zone held: its files, their listing, the times of its folders."""

    files: list[Path]
    listing: str
    folders: dict[Path, int]
    at: float

    def is_good(self) -> bool:
        """Whether no file came or went since; a file that grew is seen with the next.

        A folder changes with each name in it, and there are few folders.
        """
        if time.monotonic() - self.at > _LOOK_AGAIN_SEC:
            return False
        try:
            return bool(self.folders) and all(
                folder.stat().st_mtime_ns == changed
                for folder, changed in self.folders.items()
            )
        except FileNotFoundError:
            return False


_LOOK_AGAIN_SEC = 30


class LandingZone:
    """A landing zone, of which all files are listed only when there is reason to.

    The process that evaluates sensors stays: at rest a tick costs a look at some
    folders, however many files were landed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: _Look | None = None

    def look(self) -> _Look:
        if self._last is None or not self._last.is_good():
            folders = [
                path for path in (self._path, *self._path.rglob("*/")) if path.is_dir()
            ]
            # The folders first: what comes meanwhile is seen with the next look.
            changed = {folder: folder.stat().st_mtime_ns for folder in folders}
            files = zone.files_in(self._path)
            self._last = _Look(files, _listing(files), changed, time.monotonic())
        return self._last


_zone = functools.cache(LandingZone)


@dg.sensor(
    job=refresh_job,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def landing_zone_sensor(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """Asks for a refresh when there is a file whose content no load has.

    And once where this Dagster has not refreshed yet: what the command landed and
    derived before is then shown, too.

    Its cursor names the last state of the folder it has answered to, so that a file
    that cannot be landed does not start a run at each tick.
    """
    if (
        context.cursor is None
        and settings.warehouse.exists()
        and context.instance.get_latest_materialization_event(SNAPSHOT) is None
    ):
        return dg.SensorResult(run_requests=[dg.RunRequest()], cursor="first")
    look = _zone(settings.landing).look()
    files, listing = look.files, look.listing
    if listing == context.cursor:
        return dg.SkipReason("nothing has changed in the landing zone")
    if is_under_way(context.instance, refresh_job.name):
        return dg.SkipReason("a refresh is queued or running; looking again after it")
    try:
        pending = zone.pending(files, settings.warehouse, wait_sec=2)
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


def failure_message(
    context: dg.RunFailureSensorContext, dagster_url: str
) -> dict[str, str]:
    """What is told of a failed run. `text` is what Slack and its likes show."""
    run = context.dagster_run
    errors = [
        _first_line(event.step_failure_data)
        for event in context.get_step_failure_events()
    ] or [context.failure_event.message or "no reason is known"]
    error = "; ".join(errors)
    url = f"{dagster_url}/runs/{run.run_id}"
    return {
        "text": f"{run.job_name} failed: {error} {url}",
        "job": run.job_name,
        "run_id": run.run_id,
        "error": error,
        "url": url,
    }


def _first_line(failure: Any) -> str:
    """What the step said in its failure; else the innermost error."""
    if failure.user_failure_data and failure.user_failure_data.description:
        text = failure.user_failure_data.description
    else:
        error = failure.error
        while error.cause:
            error = error.cause
        text = error.message
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=15
)
def run_failure_alert(
    context: dg.RunFailureSensorContext, settings: dg.ResourceParam[Settings]
) -> None:
    """Says which run failed and why: in the log and, if `LMS_ALERT_URL` is set, there.

    The URL gets a POST of JSON: `text` for Slack and its likes, and its parts `job`,
    `run_id`, `error`, `url`. One that does not take it makes the tick fail.
    """
    message = failure_message(context, settings.dagster_url)
    context.log.error(message["text"])
    if settings.alert_url:
        httpx.post(settings.alert_url, json=message, timeout=10).raise_for_status()
        context.log.info("posted to the alert URL")
