"""What runs by the clock."""

import os

import dagster as dg

from orchestration.defs.jobs import (
    checks_job,
    is_under_way,
    kpis_job,
    publish_job,
    reconcile_job,
    refresh_job,
)
from orchestration.outbox.settings import RECEIVERS_VARIABLE, Settings

REFRESH_CRON = os.environ.get("LMS_REFRESH_CRON") or "*/5 * * * *"
PUBLISH_CRON = os.environ.get("LMS_PUBLISH_CRON") or "*/5 * * * *"
CHECKS_CRON = os.environ.get("LMS_CHECKS_CRON") or "30 3 * * *"
KPIS_CRON = os.environ.get("LMS_KPIS_CRON") or "0 6 * * *"
RECONCILE_CRON = os.environ.get("LMS_RECONCILE_CRON") or "0 4 * * *"


@dg.schedule(
    job=refresh_job,
    cron_schedule=REFRESH_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def refresh_schedule(
    context: dg.ScheduleEvaluationContext,
) -> dg.RunRequest | dg.SkipReason:
    """Refreshes every few minutes, unless a refresh is queued or running already."""
    if is_under_way(context.instance, refresh_job.name):
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
    if is_under_way(context.instance, publish_job.name):
        return dg.SkipReason("receivers are being told; that run takes what has come")
    return dg.RunRequest()


checks_schedule = dg.ScheduleDefinition(
    job=checks_job,
    cron_schedule=CHECKS_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


kpis_schedule = dg.ScheduleDefinition(
    job=kpis_job,
    cron_schedule=KPIS_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


reconcile_schedule = dg.ScheduleDefinition(
    job=reconcile_job,
    cron_schedule=RECONCILE_CRON,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
