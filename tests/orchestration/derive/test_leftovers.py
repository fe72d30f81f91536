"""What the project no longer has is named and not published; who asks to drops it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ingest.store.database import open_for_reading, open_for_writing
from orchestration.cli import app
from orchestration.derive import leftovers
from orchestration.derive.dbt_project import DBT_PROJECT
from orchestration.shadow.reconcile import reconcile
from orchestration.shadow.replay import replay
from orchestration.shadow.swap import undo
from orchestration.snapshot import snapshot
from serving import published
from tests.support.builders import NOW, Warehouse, ping

pytestmark = pytest.mark.long

# As a deleted view, a deleted seed and a deleted folder with a model leave them.
LEFT = """
create view analytics.v_gone as select 1 as n;
create table signals.gone_seed as select 2 as n;
create schema gone;
create table gone.prj_gone as select 'u1' as user_id, 3 as n;
insert into bookkeeping.relation values
('analytics', 'v_gone', false, true), ('gone', 'prj_gone', false, false)
"""
NAMES = ["analytics.v_gone", "gone.prj_gone", "signals.gone_seed"]


def left_over(warehouse: Warehouse) -> list[str]:
    with open_for_reading(warehouse.path) as connection:
        return [leftover.full_name for leftover in leftovers.find(connection)]


def published_names(warehouse: Warehouse) -> set[str]:
    with published.opened(warehouse.path) as connection:
        rows = connection.sql(
            "select schema_name || '.' || table_name from duckdb_columns() "
            "where not internal"
        ).fetchall()
    return {name for (name,) in rows}


def test_only_what_dbt_made_is_left_over(warehouse: Warehouse) -> None:
    assert left_over(warehouse) == []
    warehouse.execute(LEFT)
    warehouse.execute("create schema outbox; create table outbox.batch (n int)")
    warehouse.execute("create table raw.other (n int); create table main.mine (n int)")
    warehouse.execute("create schema theirs; create table theirs.own (n int)")
    assert left_over(warehouse) == NAMES


def test_a_layer_cannot_have_the_name_of_a_schema_that_dbt_does_not_make() -> None:
    macro = (DBT_PROJECT / "macros/generate_schema_name.sql").read_text()
    assert all(f"'{name}'" in macro for name in leftovers.RESERVED)


def test_what_is_left_over_leaves_the_published_snapshot(warehouse: Warehouse) -> None:
    warehouse.execute(LEFT)
    warehouse.execute("update bookkeeping.relation set in_project = true")
    snapshot.publish(warehouse.path)
    assert {"analytics.v_gone", "gone.prj_gone"} <= published_names(warehouse)
    warehouse.execute(
        "update bookkeeping.relation set in_project = not contains(name, 'gone')"
    )
    assert snapshot.publish(warehouse.path).is_new
    assert published_names(warehouse).isdisjoint(NAMES)
    with open_for_writing(warehouse.path) as connection:
        leftovers.drop(connection)
    assert not snapshot.publish(warehouse.path).is_new, "readers see no difference"


def test_a_view_that_cannot_be_read_any_more_holds_up_no_publication(
    warehouse: Warehouse,
) -> None:
    warehouse.execute("create table signals.gone_seed (n int)")
    warehouse.execute("create view analytics.v_gone as from signals.gone_seed")
    warehouse.execute("drop table signals.gone_seed")
    snapshot.publish(warehouse.path)
    assert "analytics.v_gone" not in published_names(warehouse)


def test_the_watermark_of_a_deleted_model_holds_up_nothing(
    warehouse: Warehouse,
) -> None:
    warehouse.execute(
        "insert into bookkeeping.watermark values ('prj_gone', 0, '', now(), 'n')"
    )
    warehouse.land([ping("e1")])
    warehouse.refresh()
    assert snapshot.publish(warehouse.path).load_id == 1


def test_they_are_listed_and_then_dropped(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    warehouse.execute(LEFT)

    def command(*options: str) -> str:
        result = CliRunner().invoke(app, ["leftovers", *options])
        assert result.exit_code == 0
        return result.output

    assert json.loads(command("--json")) == {"leftovers": NAMES}
    assert "v_gone" in command()
    assert left_over(warehouse) == NAMES
    assert json.loads(command("--drop", "--json")) == {"dropped": NAMES}
    assert "Nothing is left over" in command()
    schemas = warehouse.rows("select distinct schema_name from duckdb_schemas()")
    assert ("gone",) not in schemas
    assert ("signals",) in schemas


def test_reconcile_names_and_repairs_them(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    warehouse.refresh()
    warehouse.execute(LEFT)
    found = reconcile(warehouse.path, variables={"now": NOW})
    assert [name for name, *_ in found.problems_by_asset.items()] == NAMES
    repaired = reconcile(warehouse.path, variables={"now": NOW}, repair=True)
    assert repaired.agrees
    assert repaired.repaired == tuple(f"{name}: dropped" for name in NAMES)
    assert left_over(warehouse) == []


def test_a_replay_lists_drops_and_puts_them_back(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    warehouse.refresh()
    warehouse.execute(LEFT)
    found = replay(warehouse.path, variables={"now": NOW}, apply=True)
    assert (found.is_same, found.applied) == (True, True)
    assert found.leftovers == tuple(NAMES)
    assert left_over(warehouse) == []
    undo(warehouse.path)
    assert left_over(warehouse) == NAMES
    assert warehouse.rows("from gone.prj_gone") == [("u1", 3)]


def test_a_model_cannot_stand_in_a_folder_named_as_our_schemas(
    warehouse: Warehouse, project: Path
) -> None:
    folder = project / "models" / "raw"
    folder.mkdir()
    (folder / "v_new.sql").write_text("select 1 as n")
    with pytest.raises(Exception, match=r"models/raw/v_new\.sql: another name"):
        warehouse.refresh()
