"""What the project promises about itself: layers, documentation, generated files."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
DBT_PROJECT = PROJECT / "dbt_project"


@pytest.fixture(scope="session")
def manifest(dbt: None) -> dict[str, Any]:
    from orchestration.derive.dbt_runner import manifest_path

    return dict(json.loads(manifest_path().read_text()))


def test_every_model_seed_and_column_is_described(manifest: dict[str, Any]) -> None:
    nodes = [
        node
        for node in manifest["nodes"].values()
        if node["resource_type"] in ("model", "seed")
    ]
    missing = [node["name"] for node in nodes if not node["description"].strip()]
    missing += [
        f"{node['name']}.{column['name']}"
        for node in [*nodes, *manifest["sources"].values()]
        for column in node["columns"].values()
        if not column["description"].strip()
    ]
    assert len(nodes) > 20
    assert missing == []


def test_every_column_that_is_built_is_documented(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    from ingest.store.database import open_for_reading, open_for_writing
    from orchestration.derive.dbt_runner import derive

    path = tmp_path / "warehouse.duckdb"
    with open_for_writing(path, make=True):
        pass
    assert derive(path).succeeded
    documented = {
        (node["schema"], node["alias"], column)
        for node in manifest["nodes"].values()
        if node["resource_type"] in ("model", "seed")
        for column in node["columns"]
    } | {
        (node["schema"], node["name"], column)
        for node in manifest["sources"].values()
        for column in node["columns"]
    }
    with open_for_reading(path) as connection:
        built = connection.execute(
            """
            select schema_name, table_name, column_name
            from duckdb_columns()
            where not internal and database_name = current_database()
            """
        ).fetchall()
    assert set(built) - documented == set()


def test_a_layer_is_a_folder_is_a_schema(manifest: dict[str, Any]) -> None:
    models = [n for n in manifest["nodes"].values() if n["resource_type"] == "model"]
    for model in models:
        assert model["schema"] == Path(model["path"]).parts[0]
    folders = [path for path in (DBT_PROJECT / "models").iterdir() if path.is_dir()]
    assert {model["schema"] for model in models} == {path.name for path in folders}


def test_incremental_state_is_named_prj_and_stands_in_projections(
    manifest: dict[str, Any],
) -> None:
    for model in manifest["nodes"].values():
        if model["resource_type"] == "model":
            is_state = model["config"]["materialized"] == "incremental"
            assert is_state == (model["schema"] == "projections"), model["name"]
            assert is_state == model["name"].startswith("prj_"), model["name"]


def test_public_models_have_enforced_contracts_and_readers(
    manifest: dict[str, Any],
) -> None:
    public = {
        node["name"]
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["config"]["contract"]["enforced"]
    }
    assert public == {
        *("v_user_progress", "lms_signal", "signal_rule"),
        *("v_event_daily_stats", "v_signal_summary", "v_leaderboard"),
        "v_user_activity",
        *(file.stem for file in DBT_PROJECT.glob("models/analytics/v_*.sql")),
    } - {"v_leaderboard_v2"}
    read = {
        name.split(".")[2]
        for exposure in manifest["exposures"].values()
        for name in exposure["depends_on"]["nodes"]
    }
    assert read == public, "an exposure names only public models, and each has one"


def test_a_public_model_says_its_key_and_what_counts_learners(
    manifest: dict[str, Any],
) -> None:
    """Readers get pages by the key; few learners are not counted for everyone."""
    for node in manifest["nodes"].values():
        if (
            node["resource_type"] != "model"
            or not node["config"]["contract"]["enforced"]
        ):
            continue
        meta = node["config"]["meta"]
        assert set(meta["key"]) <= set(node["columns"]), node["name"]
        assert bool(meta["key"]) != (node["name"] == "v_kpi"), node["name"]
        of_several = "user_id" not in node["columns"]
        assert ("learner_counts" in meta) == of_several, node["name"]
        assert set(meta.get("learner_counts", ())) <= set(node["columns"])


def test_what_a_snapshot_has_as_a_table_does_not_change_with_time(
    manifest: dict[str, Any],
) -> None:
    nodes = manifest["nodes"]

    def read_by(unique_id: str) -> set[str]:
        above = nodes.get(unique_id, {}).get("depends_on", {}).get("nodes", ())
        return {unique_id}.union(*map(read_by, above))

    tables = [
        unique_id
        for unique_id, node in nodes.items()
        if node["config"]["meta"].get("published_as") == "table"
    ]
    assert "model.lms_warehouse.v_orphan_signal" in tables
    for table in tables:
        with_time = [
            each
            for each in read_by(table)
            if "macro.lms_warehouse.now"
            in nodes.get(each, {}).get("depends_on", {}).get("macros", ())
        ]
        assert with_time == [], f"{table} would stand still: {with_time}"


def test_dbts_own_unit_tests_pass(dbt: None, tmp_path: Path) -> None:
    from ingest.store.database import open_for_writing
    from orchestration.derive.dbt_runner import derive, unit_test

    path = tmp_path / "warehouse.duckdb"
    with open_for_writing(path, make=True):
        pass
    assert derive(path).succeeded
    result = unit_test(path)

    assert [node.name for node in result.failures] == []
    assert len(result.nodes) > 70


def test_yaml_uses_the_current_keys() -> None:
    """dbt does not flag `tests:`, nor `meta` or `tags` outside config, on DuckDB."""

    def outdated(value: Any, place: str, inside_config: bool) -> list[str]:
        found = []
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "tests" or (key in ("meta", "tags") and not inside_config):
                    found.append(f"{place}/{key}")
                found += outdated(inner, f"{place}/{key}", key == "config")
        elif isinstance(value, list):
            for item in value:
                found += outdated(item, place, False)
        return found

    files = [*DBT_PROJECT.glob("models/**/*.yml"), *DBT_PROJECT.glob("seeds/**/*.yml")]
    assert len(files) > 5
    for file in files:
        assert outdated(yaml.safe_load(file.read_text()), file.name, False) == []


def test_ingest_imports_neither_dagster_nor_dbt() -> None:
    script = (
        "import sys, ingest.landing.zone, ingest.landing.dead_letters, ingest.demo;"
        "print([m for m in sys.modules if m.split('.')[0] in ('dagster', 'dbt')])"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_a_test_imports_from_support_alone() -> None:
    elsewhere = [
        f"{file.relative_to(PROJECT)}: {imported}"
        for file in PROJECT.glob("tests/**/*.py")
        for imported in re.findall(r"(?:from|import) (tests\.[\w.]+)", file.read_text())
        if not re.fullmatch(r"tests\.support(\.(?!test_)\w+)*", imported)
    ]
    assert elsewhere == []


def test_the_linter_refuses_dagster_in_ingest(tmp_path: Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--config"),
            *(str(PROJECT / "pyproject.toml"), "--stdin-filename"),
            *(str(PROJECT / "ingest" / "new.py"), "-"),
        ],
        input="import dagster\nfrom dbt.cli import main\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.count("TID251") == 2


def test_the_lock_names_hashes_and_no_addresses() -> None:
    text = (PROJECT / "requirements.lock").read_text()
    assert not re.search(r"https?://|index-url", text)
    assert text.count("--hash=sha256:") > text.count("==")


@pytest.mark.parametrize(
    "path", [PROJECT / "requirements.lock", *PROJECT.glob("tests/requirements-*.txt")]
)
def test_a_lock_has_no_extras(path: Path) -> None:
    """Checking hashes, pip takes `name[extra]` for another requirement than `name`."""
    assert re.findall(r"^[\w.-]+==", path.read_text(), re.MULTILINE)
    assert re.findall(r"^[\w.-]+\[.*", path.read_text(), re.MULTILINE) == []


def test_nothing_is_fetched_or_reported() -> None:
    project = yaml.safe_load((DBT_PROJECT / "dbt_project.yml").read_text())
    dagster = yaml.safe_load((PROJECT / "orchestration" / "dagster.yaml").read_text())
    assert project["flags"]["send_anonymous_usage_stats"] is False
    assert dagster["telemetry"]["enabled"] is False
    assert not (DBT_PROJECT / "packages.yml").exists()
