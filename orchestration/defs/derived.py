"""Every table and view that dbt makes, with its tests as checks."""

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

from ingest.settings import Settings
from ingest.store import database
from orchestration.defs.metadata import (
    code_reference,
    columns_metadata,
    relation_metadata,
    sql_metadata,
)
from orchestration.defs.resources import OWNERS, POOL, one_line_failures
from orchestration.derive import dbt_project, dbt_runner
from orchestration.derive.dbt_runner import Derivation, Node


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

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return str(dbt_resource_props["description"])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:  # noqa: ARG002
        return OWNERS

    def get_metadata(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, Any]:
        file = dbt_project.DBT_PROJECT / dbt_resource_props["original_file_path"]
        return {
            **super().get_metadata(dbt_resource_props),
            **columns_metadata(dbt_resource_props["unique_id"]),
            "dagster/code_references": code_reference(file),
        }

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = manifest["nodes"].get(unique_id) or manifest["sources"][unique_id]
        minutes = node["config"].get("meta", {}).get("derived_within_minutes")
        if minutes is None:
            return spec
        return spec.replace_attributes(
            freshness_policy=dg.FreshnessPolicy.time_window(
                warn_window=timedelta(minutes=minutes["warn"]),
                fail_window=timedelta(minutes=minutes["fail"]),
            )
        )


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
    context: dg.AssetExecutionContext,
    config: DeriveConfig,
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
    """Every table and view that dbt derives from raw, with its tests as asset checks.

    Runs the function that `warehouse refresh` and `warehouse rebuild` run. When only
    checks are selected, every data test runs, those over the whole history too.
    """
    path = settings.warehouse
    selected = [_model_of(key) for key in context.selected_asset_keys]
    everything = len(selected) == len(derived_assets.keys)
    with one_line_failures():
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
    for leftover in (*derivation.leftovers, *derivation.dropped):
        context.log.warning(
            f"{leftover.full_name}: no longer in the project"
            + (
                ", and dropped"
                if leftover in derivation.dropped
                else " nor published; `warehouse leftovers --drop` drops it"
            )
        )
    if not derivation.succeeded:
        failures = [str(node.problem) for node in derivation.failures]
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
    lags = {
        model: {"load_id": load_id, "loads_behind": loads, "events_behind": events}
        for model, load_id, loads, events in connection.execute(
            "select model, load_id, loads_behind, events_behind "
            "from bookkeeping.model_lag"
        ).fetchall()
    }
    fresh: set[dg.AssetKey] = set()
    for key in TopologicalSorter(above).static_order():
        if key in made:
            lag = lags.get(key.path[-1], {})
            metadata = _metadata(made[key], key, connection) | lag
        elif derivation.views_unchanged and fresh - failed_checks >= set(above[key]):
            metadata = _view_metadata(key, connection)
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
            "sql": sql_metadata(node.compiled_code),
        },
    )


def _metadata(
    node: Node, key: dg.AssetKey, connection: duckdb.DuckDBPyConnection
) -> dict[str, Any]:
    return {
        "seconds": node.seconds,
        "sql": sql_metadata(node.compiled_code),
        **_content(key, connection),
    }


def _view_metadata(
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
        "sql": sql_metadata(found[0][0] if found else None),
        **_content(key, connection),
    }


def _content(key: dg.AssetKey, connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    # Staging is views over all events, analytics over all learners: counting those
    # would cost what there is.
    if key.path[0] in ("staging", "analytics"):
        return {}
    return relation_metadata(connection, '"{}"."{}"'.format(*key.path))
