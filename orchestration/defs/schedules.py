"""What runs by the clock: the settings say when."""

import dagster as dg

from ingest.settings import Settings
from orchestration.defs.backup import backup_job
from orchestration.defs.jobs import (
    checks_job,
    is_under_way,
    kpis_job,
    publish_job,
    reconcile_job,
    refresh_job,
)
from orchestration.defs.report import weekly_report_job
from orchestration.outbox.settings import RECEIVERS_VARIABLE, PublishSettings

_SETTINGS = Settings.from_environment()


@dg.schedule(
    job=refresh_job,
    cron_schedule=_SETTINGS.refresh_cron,
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
    cron_schedule=_SETTINGS.publish_cron,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def publish_schedule(
    context: dg.ScheduleEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """Sends every few minutes, if there is a receiver and no sending is under way."""
    if not any(PublishSettings.of(settings).receivers.values()):
        variables = " nor ".join(RECEIVERS_VARIABLE.values())
        return dg.SkipReason(f"no receiver: neither {variables} is set")
    if is_under_way(context.instance, publish_job.name):
        return dg.SkipReason("receivers are being told; that run takes what has come")
    return dg.RunRequest()


checks_schedule = dg.ScheduleDefinition(
    job=checks_job,
    cron_schedule=_SETTINGS.checks_cron,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


kpis_schedule = dg.ScheduleDefinition(
    job=kpis_job,
    cron_schedule=_SETTINGS.kpis_cron,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


reconcile_schedule = dg.ScheduleDefinition(
    job=reconcile_job,
    cron_schedule=_SETTINGS.reconcile_cron,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


weekly_report_schedule = dg.ScheduleDefinition(
    job=weekly_report_job,
    cron_schedule=_SETTINGS.report_cron,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)


backup_schedule = dg.ScheduleDefinition(
    job=backup_job,
    cron_schedule=_SETTINGS.backup_cron,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
