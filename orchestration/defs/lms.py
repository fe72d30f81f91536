"""Moving in as a job: for an export that stands where Dagster runs.

The file is typed into the launchpad, or a cron job of an operator's launches it after
each export. The next refresh derives from what it lands.
"""

from pathlib import Path

import dagster as dg

from ingest.lms.importer import import_lms
from ingest.store import database
from orchestration.defs.resources import POOL, one_line_failures


@dg.op(
    name="import_lms_export",
    pool=POOL,
    config_schema={
        "file": dg.Field(
            str,
            description="The LMS's SQLite database, or the SQL dump that `wrangler d1 "
            "export` writes of it.",
        )
    },
)
def import_lms_op(context: dg.OpExecutionContext) -> None:
    """Imports what is new of the export: its events and its catalogue."""
    with one_line_failures():
        result = import_lms(
            Path(context.op_config["file"]),
            database.warehouse_path(),
            database.landing_zone_path(),
        )
    load = result.load
    context.add_output_metadata(
        {
            "file": result.file,
            "events": result.events,
            "known": result.known,
            "erased": result.erased + (load.erased if load else 0),
            "set_aside": sum(result.set_aside.values()),
            "accepted": load.accepted if load else 0,
            "rejected": load.rejected if load else 0,
            "conflict": load.conflict if load else 0,
            "has_news": result.has_news,
        }
    )
    if result.failures:
        raise dg.Failure("; ".join(result.failures), allow_retries=False)


@dg.job(
    name="import_lms",
    description="Imports what is new of an export of the LMS's database.",
)
def import_lms_job() -> None:
    import_lms_op()
