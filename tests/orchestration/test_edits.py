"""An edit's whole life: what is added, renamed, moved and deleted is told, built and
published, and nothing but the dbt project is edited."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.defs.derived import LayerTranslator
from orchestration.derive import dbt_project, dbt_runner
from orchestration.refresh import Refresh, refresh
from orchestration.shadow import sandbox
from orchestration.shadow.sandbox import Diff
from orchestration.snapshot import snapshot
from serving import published
from tests.support.builders import Warehouse, ping, quiz
from tests.support.edits import copied_project, edit

pytestmark = pytest.mark.long

YAML = """
models:
  - name: v_goal
    description: One row per learner, with the goal of the seed.
    config: {access: public, group: learning_data, contract: {enforced: true}}
    data_tests:
      - unique_combination:
          name: v_goal_has_a_unique_key
          arguments: {columns: [user_id]}
    columns:
      - {name: user_id, data_type: varchar, description: The learner.}
      - {name: goal, data_type: integer, description: Quizzes to pass.}
seeds:
  - name: goal
    description: One row with the goal.
    columns:
      - {name: quizzes, description: Quizzes to pass.}
"""


@dataclass(frozen=True)
class Edited:
    warehouse: Warehouse
    diff: Diff
    markdown: str
    refreshed: Refresh
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def edited(
    derived_nothing: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edited]:
    """One of each: a column of a public model renamed, a public model moved and one
    deleted, a seed edited, and a new folder with a seed, a view and a test."""
    warehouse = derived_nothing.copied(tmp_path_factory.mktemp("edited"))
    warehouse.land([ping("e1", position=99), quiz("e2", user="u2")])
    warehouse.refresh(now="")
    snapshot.publish(warehouse.path)
    sandbox.make(warehouse.path, "mine")
    project = copied_project(tmp_path_factory.mktemp("project"))
    _edit(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbt_project, "DBT_PROJECT", project)
        patch.setenv("DBT_TARGET_PATH", str(project / "target"))
        patch.setenv("LMS_WAREHOUSE", str(warehouse.path))
        diff = sandbox.diff(warehouse.path, "mine")
        shown = CliRunner().invoke(app, ["diff", "mine", "--no-build", "--markdown"])
        refreshed = refresh(warehouse.path)
        manifest = json.loads(dbt_runner.manifest_path().read_bytes())
        yield Edited(warehouse, diff, shown.output, refreshed, manifest)


def _edit(project: Path) -> None:
    models = project / "models"
    for file in ("v_user_progress.sql", "_progress.yml"):
        edit(models / "progress" / file, "quiz_score", "quiz_points")
    edit(models / "_exposures.yml", "      - ref('v_streak_history')\n", "")
    analytics = models / "analytics"
    (analytics / "v_streak_history.sql").unlink()
    described = (analytics / "_analytics.yml").read_text()
    (analytics / "_analytics.yml").write_text(
        re.sub(r"(?s)  - name: v_streak_history\n.*?(?=\n  - name: )", "", described)
    )
    (analytics / "v_stale_user.sql").rename(models / "monitoring" / "v_stale_user.sql")
    edit(project / "seeds/analytics/learner_level.csv", "1,0\n", "1,0\n77,10\n")
    for kind in ("models", "seeds"):
        (project / kind / "insight").mkdir()
    (project / "seeds/insight/goal.csv").write_text("quizzes\n3\n")
    (models / "insight/v_goal.sql").write_text(
        "select progress.user_id, max(goal.quizzes)::integer as goal\n"
        "from {{ ref('v_user_progress') }} as progress\n"
        "cross join {{ ref('goal') }} as goal\ngroup by progress.user_id\n"
    )
    (models / "insight/_insight.yml").write_text(YAML)


def test_what_came_went_and_moved_is_named(edited: Edited) -> None:
    assert edited.diff.new == ("insight.goal", "insight.v_goal")
    assert edited.diff.gone == ("analytics.v_streak_history",)
    assert edited.diff.moved == {"analytics.v_stale_user": "monitoring.v_stale_user"}


def test_a_renamed_column_a_deleted_and_a_moved_public_model_break(
    edited: Edited,
) -> None:
    assert edited.diff.breaking == {
        "analytics.v_stale_user": ("now monitoring.v_stale_user", "no longer public"),
        "analytics.v_streak_history": ("gone",),
        "progress.v_user_progress": ("column quiz_score is gone",),
    }
    [progress] = [
        each for each in edited.diff.differences if each.table.endswith("user_progress")
    ]
    assert progress.column_changes == ["- quiz_score", "+ quiz_points INTEGER"]


def test_all_rows_of_a_new_model_are_added(edited: Edited) -> None:
    [new] = [each for each in edited.diff.differences if each.table == "insight.v_goal"]
    assert (new.is_new, new.added, new.gone, new.changed) == (True, 2, 0, 0)
    assert new.examples[0].key == {"user_id": "u1"}
    assert new.examples[0].columns == {"goal": [None, 3]}


def test_an_edited_seed_is_shown_with_what_it_changes(edited: Edited) -> None:
    assert "analytics.learner_level" in edited.diff.edited
    assert "analytics.v_leaderboard_v2" in edited.diff.downstream
    by_table = {each.table: each for each in edited.diff.differences}
    assert by_table["analytics.learner_level"].added == 1
    assert by_table["analytics.v_leaderboard_v2"].columns_changed == {"level": 1}


def test_a_review_in_markdown_has_every_change(edited: Edited) -> None:
    lines = edited.markdown.splitlines()
    [row] = [line for line in lines if line.startswith("| progress.v_user_progress")]
    assert row.count("|") == 8
    assert "- quiz_score, + quiz_points" in row
    assert "column quiz_score is gone |" in row
    assert any(line.startswith("| analytics.v_streak_history |") for line in lines)
    assert "- moved: analytics.v_stale_user -> monitoring.v_stale_user" in lines


def test_a_new_folder_is_a_schema_published_and_shown(edited: Edited) -> None:
    ran = {node.name for node in edited.refreshed.derivation.nodes}
    assert {"v_goal", "goal", "v_goal_has_a_unique_key"} <= ran
    with published.opened(edited.warehouse.path) as connection:
        assert connection.sql("from insight.v_goal order by all").fetchall() == [
            ("u1", 3),
            ("u2", 3),
        ]
    [node] = [n for n in edited.manifest["nodes"].values() if n["name"] == "v_goal"]
    translator = LayerTranslator()
    assert translator.get_asset_key(node) == dg.AssetKey(["insight", "v_goal"])
    assert translator.get_group_name(node) == "insight"


def test_what_a_refresh_finds_left_over_it_names_and_does_not_publish(
    edited: Edited,
) -> None:
    left = edited.refreshed.as_json()["leftovers"]
    assert left == ["analytics.v_stale_user", "analytics.v_streak_history"]
    with published.opened(edited.warehouse.path) as connection:
        names = connection.sql(
            "select distinct schema_name || '.' || table_name from duckdb_columns()"
        ).fetchall()
    assert {("monitoring.v_stale_user",), ("progress.v_user_progress",)} <= {*names}
    assert {*names}.isdisjoint({(name,) for name in left})
