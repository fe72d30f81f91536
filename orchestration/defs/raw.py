"""The landing zone, and the tables of raw that landing fills."""

from collections.abc import Iterator

import dagster as dg
import duckdb

from ingest.landing import event_files, zone
from ingest.store import database
from ingest.store.conservation import broken_loads
from orchestration.defs.metadata import relation_metadata, sample_table
from orchestration.defs.resources import POOL, one_line_failures

EVENTS = dg.AssetKey(["landing", "events"])
CATALOGUE = dg.AssetKey(["landing", "catalogue"])
LOAD = dg.AssetKey(["raw", "load"])
RAW_TABLES = ("lms_event", "dead_letter", "load", "catalogue")


class_skill = dg.AssetSpec(
    ["raw", "class_skill"],
    group_name="raw",
    description="Which classes teach which skill: `warehouse catalogue --skills FILE`.",
)


@dg.multi_asset(
    name="survey_landing_zone",
    specs=[
        dg.AssetSpec(
            EVENTS,
            group_name="landing",
            description="Event files as they arrive: events/ of the landing zone.",
        ),
        dg.AssetSpec(
            CATALOGUE,
            group_name="landing",
            description="Catalogue snapshots, under catalogue/ of the landing zone.",
        ),
    ],
)
def landing_files() -> Iterator[dg.MaterializeResult[None]]:
    """Lists what is in the landing zone; nothing is moved or changed."""
    files = zone.files_in(database.landing_zone_path())
    for key in (EVENTS, CATALOGUE):
        mine = [file for file in files if (file.suffix == ".csv") == (key == CATALOGUE)]
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={
                "folder": dg.MetadataValue.path(str(database.landing_zone_path())),
                "files": len(mine),
                "bytes": sum(file.stat().st_size for file in mine),
            },
        )


@dg.multi_asset(
    name="land",
    pool=POOL,
    specs=[
        dg.AssetSpec(
            ["raw", "lms_event"],
            deps=[EVENTS],
            group_name="raw",
            description="Every accepted event, once, as it was received.",
        ),
        dg.AssetSpec(
            ["raw", "dead_letter"],
            deps=[EVENTS],
            group_name="raw",
            description="Every line that is no event, as it came, with the reason.",
        ),
        dg.AssetSpec(
            LOAD,
            deps=[EVENTS, CATALOGUE],
            group_name="raw",
            description="One row per landed file: its hash, counts and versions.",
        ),
        dg.AssetSpec(
            ["raw", "catalogue"],
            deps=[CATALOGUE],
            group_name="raw",
            description="Every catalogue snapshot, as it was landed.",
        ),
    ],
    check_specs=[
        dg.AssetCheckSpec(
            "no_line_is_lost",
            asset=LOAD,
            description="lines read = accepted + duplicate + conflict + rejected + "
            "erased, for each load, and the accepted and dead ones are really there.",
        ),
        dg.AssetCheckSpec(
            "every_file_was_landed",
            asset=LOAD,
            description="No file of the landing zone is cut short, corrupt or wrong.",
        ),
    ],
)
def raw_tables(
    context: dg.AssetExecutionContext,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Takes every file of the landing zone that is still to be taken."""
    path = database.warehouse_path()
    with one_line_failures():
        result = zone.land_zone(database.landing_zone_path(), path)
        with database.open_for_reading(path) as connection:
            described = {
                table: relation_metadata(connection, f"raw.{table}")
                for table in RAW_TABLES
            }
            wrong = loads_that_lost_lines(connection, result.load_ids())
    for failure in result.failures:
        context.log.warning(failure)
    landing_zone = database.landing_zone_path()
    if line := event_files.passed_over_line(landing_zone, result.passed_over):
        context.log.warning(line)
    totals = result.events.totals()
    reasons = sample_table(
        list(totals.pop("rejected_by_reason").items()), ["", "lines"]
    )
    described["load"] |= {**totals, "rejected_by_reason": dg.MetadataValue.md(reasons)}
    described["lms_event"]["accepted"] = totals["accepted"]
    described["catalogue"]["snapshots_landed"] = len(result.snapshots)
    for table, metadata in described.items():
        yield dg.MaterializeResult(asset_key=["raw", table], metadata=metadata)
    yield dg.AssetCheckResult(
        passed=not wrong,
        asset_key=LOAD,
        check_name="no_line_is_lost",
        metadata={"loads_checked": len(result.load_ids()), "wrong_loads": wrong},
    )
    yield dg.AssetCheckResult(
        passed=not result.failures,
        asset_key=LOAD,
        check_name="every_file_was_landed",
        metadata={
            "failures": list(result.failures),
            "passed_over": len(result.passed_over),
        },
    )


def loads_that_lost_lines(
    connection: duckdb.DuckDBPyConnection, load_ids: list[int]
) -> list[int]:
    """Those of the loads for which the conservation law does not hold."""
    return [load.load_id for load in broken_loads(connection, load_ids)]
