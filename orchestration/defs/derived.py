"""The assets: landing zone, raw tables, and every dbt model with its tests as checks.

Steps that write to the warehouse are in the pool `duckdb`, which has one place, so that
one of them runs at a time, whatever ticks together.
"""

import contextlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from graphlib import TopologicalSorter
from typing import Any

import dagster as dg
import duckdb
from dagster_dbt import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    dbt_assets,
)

from ingest.landing import zone
from ingest.store import database
from ingest.store.conservation import broken_loads
from ingest.store.database import WarehouseError, WarehouseLocked
from orchestration.derive import dbt_runner
from orchestration.derive.dbt_runner import Derivation, Node

POOL = "duckdb"
SAMPLE_ROWS = 5
RETRY_WAIT_SEC = 20
EVENTS = dg.AssetKey(["landing", "events"])
CATALOGUE = dg.AssetKey(["landing", "catalogue"])
LOAD = dg.AssetKey(["raw", "load"])
RAW_TABLES = ("lms_event", "dead_letter", "load", "catalogue")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """A locked warehouse is tried again, since whoever holds it lets go of it some
    time; nothing else is. What the user can mend is one line."""
    try:
        yield
    except WarehouseLocked as error:
        raise dg.RetryRequested(
            max_retries=3, seconds_to_wait=RETRY_WAIT_SEC
        ) from error
    except WarehouseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def sample_table(
    rows: list[tuple[Any, ...]], columns: list[str], width: int = 80
) -> str:
    """Rows as a Markdown table; ids are opaque, so what would break it is escaped."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (
            str(value)[:width].replace("|", "\\|").replace("\n", " ").replace("`", "'")
            for value in row
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def relation_metadata(
    connection: duckdb.DuckDBPyConnection, relation: str
) -> dict[str, Any]:
    """Row count and a small sample of a table or view."""
    [[count]] = connection.execute(f"select count(*) from {relation}").fetchall()
    result = connection.execute(f"select * from {relation} limit {SAMPLE_ROWS}")
    columns = [name for name, *_ in result.description or ()]
    return {
        "dagster/row_count": dg.MetadataValue.int(count),
        "sample": dg.MetadataValue.md(sample_table(result.fetchall(), columns)),
    }


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
    with explained():
        result = zone.land_zone(database.landing_zone_path(), path)
        with database.open_for_reading(path) as connection:
            described = {
                table: relation_metadata(connection, f"raw.{table}")
                for table in RAW_TABLES
            }
            wrong = loads_that_lost_lines(connection, result.load_ids())
    for failure in result.failures:
        context.log.warning(failure)
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
        metadata={"failures": list(result.failures)},
    )


def loads_that_lost_lines(
    connection: duckdb.DuckDBPyConnection, load_ids: list[int]
) -> list[int]:
    """Those of the loads for which the conservation law does not hold."""
    return [load.load_id for load in broken_loads(connection, load_ids)]


class LayerTranslator(DagsterDbtTranslator):
    """One word names a layer: schema, folder and group, and an asset's key begins with
    it. A versioned model goes by its alias, the name of its table or view."""

    def __init__(self) -> None:
        super().__init__(
            DagsterDbtTranslatorSettings(
                enable_source_tests_as_checks=True, enable_code_references=False
            )
        )

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        name = dbt_resource_props.get("alias") or dbt_resource_props["name"]
        return dg.AssetKey([dbt_resource_props["schema"], name])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return str(dbt_resource_props["schema"])

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        if spec.key == dg.AssetKey(["progress", "v_user_progress"]):
            # A refresh runs every 5 minutes: three missed ones are worth a look, and
            # half an hour without one is a failure.
            return spec.replace_attributes(
                freshness_policy=dg.FreshnessPolicy.time_window(
                    warn_window=timedelta(minutes=15), fail_window=timedelta(minutes=30)
                )
            )
        return spec


class DeriveConfig(dg.Config):
    """`rebuild` derives everything again from raw."""

    rebuild: bool = False


@dbt_assets(
    manifest=dbt_runner.manifest_path(),
    dagster_dbt_translator=LayerTranslator(),
    name="derive",
    pool=POOL,
)
def derived_assets(
    context: dg.AssetExecutionContext, config: DeriveConfig
) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
    """Every table and view that dbt derives from raw, with its tests as asset checks.

    Runs the function that `warehouse refresh` and `warehouse rebuild` run. When only
    checks are selected, every data test runs, those over the whole history too.
    """
    path = database.warehouse_path()
    selected = [_model_of(key) for key in context.selected_asset_keys]
    everything = len(selected) == len(derived_assets.keys)
    with explained():
        if selected:
            derivation = dbt_runner.derive(
                path, rebuild=config.rebuild, select=() if everything else selected
            )
        else:
            derivation = dbt_runner.check(path)
        # dbt has let the file go: what was built is counted in one opening of it.
        with database.open_for_reading(path) as connection:
            events = list(_events(context, derivation, connection))
    yield from events
    if not derivation.succeeded:
        failures = [f"{node.name}: {node.message}" for node in derivation.failures]
        raise dg.Failure("; ".join(failures), allow_retries=False)


_UNIQUE_ID = "dagster_dbt/unique_id"


def _model_of(key: dg.AssetKey) -> str:
    """The dbt selector of one asset."""
    unique_id = str(derived_assets.specs_by_key[key].metadata[_UNIQUE_ID])
    return unique_id.split(".", 2)[2]


def _events(
    context: dg.AssetExecutionContext,
    derivation: Derivation,
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
    keys = {spec.metadata[_UNIQUE_ID]: spec.key for spec in derived_assets.specs}
    checks = {
        spec.metadata[_UNIQUE_ID]: spec.key
        for spec in derived_assets.check_specs
        if spec.key in context.selected_asset_check_keys
    }
    made = {
        keys[node.unique_id]: node
        for node in derivation.nodes
        if node.unique_id in keys and node.status == "success"
    }
    failed_checks = {
        checks[node.unique_id].asset_key
        for node in derivation.nodes
        if node.unique_id in checks and node.failed
    }
    # Dagster takes an asset only after those that it is made from.
    above = {
        spec.key: [dep.asset_key for dep in spec.deps if dep.asset_key in keys.values()]
        for spec in derived_assets.specs
    }
    fresh: set[dg.AssetKey] = set()
    for key in TopologicalSorter(above).static_order():
        if key in made:
            metadata = _metadata(made[key], key, connection)
        elif derivation.views_stand and fresh - failed_checks >= set(above[key]):
            metadata = _standing_metadata(key, connection)
        else:
            continue
        fresh.add(key)
        yield dg.Output(None, output_name=key.to_python_identifier(), metadata=metadata)
    for node in derivation.nodes:
        if node.unique_id in checks and node.status != "skipped":
            yield _check_result(node, checks[node.unique_id])


def _check_result(node: Node, key: dg.AssetCheckKey) -> dg.AssetCheckResult:
    severity = (
        dg.AssetCheckSeverity.WARN if node.warned else dg.AssetCheckSeverity.ERROR
    )
    return dg.AssetCheckResult(
        passed=not (node.failed or node.warned),
        asset_key=key.asset_key,
        check_name=key.name,
        severity=severity,
        metadata={
            "failing_rows": node.failures or 0,
            "seconds": node.seconds,
            "sql": _sql(node.compiled_code),
        },
    )


def _metadata(
    node: Node, key: dg.AssetKey, connection: duckdb.DuckDBPyConnection
) -> dict[str, Any]:
    return {
        "seconds": node.seconds,
        "sql": _sql(node.compiled_code),
        **_content(key, connection),
    }


def _standing_metadata(
    key: dg.AssetKey, connection: duckdb.DuckDBPyConnection
) -> dict[str, Any]:
    """Of a view, or a seed, that answers from what is new without being made again."""
    found = connection.execute(
        """
        select sql from duckdb_views()
        where
            database_name = current_database()
            and schema_name = $1
            and view_name = $2
        """,
        list(key.path),
    ).fetchall()
    return {
        "sql": _sql(found[0][0] if found else None),
        **_content(key, connection),
    }


def _content(key: dg.AssetKey, connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    # Staging is views over all events; counting those would cost what there is.
    if key.path[0] == "staging":
        return {}
    return relation_metadata(connection, '"{}"."{}"'.format(*key.path))


def _sql(code: str | None) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"```sql\n{(code or '').strip()}\n```")
