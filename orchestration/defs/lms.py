"""Moving in as a job: for an export that stands where Dagster runs.

The file stands at its default place or is typed into the launchpad; a cron job of an
operator's launches the job after each export. The next refresh derives from it.
"""

from pathlib import Path

import dagster as dg
from pydantic import Field

from ingest.landing import quiz_register
from ingest.lms.importer import import_lms
from ingest.settings import Settings
from orchestration.defs.resources import POOL, one_line_failures

DEFAULT_EXPORT = "lms/export.sql"


class ImportConfig(dg.Config):
    """Which export to import."""

    file: str = Field(
        "",
        description="The LMS's SQLite database, or the SQL dump that `wrangler d1 "
        f"export` writes of it; empty: {DEFAULT_EXPORT} in the landing zone.",
    )


@dg.op(name="import_lms_export", pool=POOL)
def import_lms_op(
    context: dg.OpExecutionContext,
    config: ImportConfig,
    settings: dg.ResourceParam[Settings],
) -> None:
    """Imports what is new of the export: its events and its catalogue."""
    file = Path(config.file) if config.file else settings.landing / DEFAULT_EXPORT
    with one_line_failures():
        register = quiz_register.read(settings.quiz_register)
        result = import_lms(
            file, settings.warehouse, settings.landing, register=register
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
