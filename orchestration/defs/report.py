"""The weekly report: written beside the warehouse, and mailed where that is set."""

from datetime import timedelta

import dagster as dg

from ingest.settings import Settings
from orchestration.defs.metadata import code_reference
from orchestration.defs.resources import OWNERS, one_line_failures
from orchestration.defs.snapshot import SNAPSHOT
from serving.access import Scope
from serving.reader import Follower
from serving.report import remove_reports

_DAYS = 7


@dg.asset(
    key=dg.AssetKey(["published", "weekly_report"]),
    deps=[SNAPSHOT],
    group_name="published",
    owners=OWNERS,
    metadata={"dagster/code_references": code_reference(__file__)},
    kinds={"html"},
)
def weekly_report(
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[None]:
    """The report of the last week: an HTML file per course and one for all, in place of
    those of the week before; mailed to `LMS_REPORT_TO` if `LMS_REPORT_SMTP` is set."""
    # They draw charts, which takes a second to import.
    from serving.report import files, mail

    follower = Follower(settings.published_snapshot, now=settings.now or None)
    with one_line_failures():
        with follower.reader(Scope()) as reader:
            since = reader.today() - timedelta(days=_DAYS)
            written = files.write_all(reader, settings.reports, since=since)
        new = {file for each in written for file in (each.page, *each.images.values())}
        remove_reports(settings.reports, keep=new)
        mailed = mail.mail_reports(settings, since) if settings.report_smtp else 0
    return dg.MaterializeResult(
        metadata={
            "folder": dg.MetadataValue.path(settings.reports),
            "files": len(written),
            "bytes": sum(each.page.stat().st_size for each in written),
            "mails": mailed,
        }
    )


weekly_report_job = dg.define_asset_job(
    "weekly_report",
    selection=dg.AssetSelection.assets(weekly_report),
    description="Writes the report of the last week, and mails it where that is set.",
)
