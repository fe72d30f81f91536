"""The landing zone, and the tables of raw that landing fills."""

from collections.abc import Iterator

import dagster as dg
import duckdb

from ingest.landing import event_files, zone
from ingest.settings import Settings
from ingest.store import database
from ingest.store.conservation import broken_loads
from orchestration.defs.metadata import (
    code_reference,
    columns_metadata,
    relation_metadata,
    sample_table,
)
from orchestration.defs.resources import OWNERS, POOL, one_line_failures
from orchestration.derive import dbt_runner

EVENTS = dg.AssetKey(["landing", "events"])
CATALOGUE = dg.AssetKey(["landing", "catalogue"])
LOAD = dg.AssetKey(["raw", "load"])
RAW_TABLES = ("lms_event", "dead_letter", "load", "catalogue")


def _spec(
    key: dg.AssetKey, description: str, *deps: dg.AssetKey, kinds: set[str]
) -> dg.AssetSpec:
    layer, table = key.path
    columns = columns_metadata(f"source.lms_warehouse.raw.{table}")
    return dg.AssetSpec(
        key,
        deps=deps,
        group_name=layer,
        owners=OWNERS,
        kinds=kinds,
        description=description,
        metadata={
            **(columns if layer == "raw" else {}),
            "dagster/code_references": code_reference(__file__),
        },
    )


def _raw(table: str, description: str, *deps: dg.AssetKey) -> dg.AssetSpec:
    key = dg.AssetKey(["raw", table])
    return _spec(key, description, *deps, kinds={"python", "duckdb"})


class_skill = _raw(
    "class_skill",
    "Which classes teach which skill: `warehouse catalogue --skills FILE`.",
)


@dg.multi_asset(
    name="survey_landing_zone",
    specs=[
        _spec(
            EVENTS,
            "Event files as they arrive: events/ of the landing zone.",
            kinds={"file"},
        ),
        _spec(
            CATALOGUE,
            "Catalogue snapshots, under catalogue/ of the landing zone.",
            kinds={"file"},
        ),
    ],
)
def landing_files(
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.MaterializeResult[None]]:
    """Lists what is in the landing zone; nothing is moved or changed."""
    files = zone.files_in(settings.landing)
    for key in (EVENTS, CATALOGUE):
        mine = [file for file in files if (file.suffix == ".csv") == (key == CATALOGUE)]
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={
                "folder": dg.MetadataValue.path(str(settings.landing)),
                "files": len(mine),
                "bytes": sum(file.stat().st_size for file in mine),
            },
        )


@dg.multi_asset(
    name="land",
    pool=POOL,
    specs=[
        _raw("lms_event", "Every accepted event, once, as it was received.", EVENTS),
        _raw(
            "dead_letter",
            "Every line that is no event, as it came, with the reason.",
            EVENTS,
        ),
        _raw(
            "load",
            "One row per landed file: its hash, counts and versions.",
            *(EVENTS, CATALOGUE),
        ),
        _raw("catalogue", "Every catalogue snapshot, as it was landed.", CATALOGUE),
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
        dg.AssetCheckSpec(
            "something_came_of_late",
            asset=LOAD,
            description="A warning where no load is as new as the source's freshness "
            "in dbt asks.",
        ),
    ],
)
def raw_tables(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Takes every file of the landing zone that is still to be taken."""
    with one_line_failures():
        limit = dbt_runner.freshness_limit("raw.load")
        result = zone.land_zone(settings.landing, settings.warehouse)
        with database.open_for_reading(settings.warehouse) as connection:
            described = {
                table: relation_metadata(connection, f"raw.{table}")
                for table in RAW_TABLES
            }
            wrong = loads_that_lost_lines(connection, result.load_ids())
            [[newest]] = connection.execute(
                "select max(received_at) from raw.load"
            ).fetchall()
    for failure in result.failures:
        context.log.warning(failure)
    if line := event_files.passed_over_line(settings.landing, result.passed_over):
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
    yield dg.AssetCheckResult(
        passed=newest is not None and database.utc_now() - newest <= limit,
        asset_key=LOAD,
        check_name="something_came_of_late",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"newest_load": f"{newest:%Y-%m-%d %H:%M} UTC" if newest else "none"},
    )


def loads_that_lost_lines(
    connection: duckdb.DuckDBPyConnection, load_ids: list[int]
) -> list[int]:
    """Those of the loads for which the conservation law does not hold."""
    return [load.load_id for load in broken_loads(connection, load_ids)]
