"""A private copy to try an edit in, and what the edit changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.errors import WarehouseError
from orchestration.shadow import sandbox
from orchestration.snapshot import snapshot
from serving import published
from tests.support.builders import Class, Warehouse, ping, quiz
from tests.support.edits import edit

pytestmark = pytest.mark.long

WAREHOUSE = Path(sys.executable).with_name("warehouse")


def test_a_threshold_of_95_percent_is_tried_before_it_is_published(
    warehouse: Warehouse, project: Path
) -> None:
    warehouse.land_catalogue(Class("c1", has_video=1, has_quiz=0))
    warehouse.land(
        [
            ping("half", user_id="u1", position=92),
            ping("whole", user_id="u2", position=99),
            quiz("q", user_id="u2"),
        ]
    )
    warehouse.refresh(now="")
    snapshot.publish(warehouse.path)
    made = sandbox.make(warehouse.path, "threshold")
    assert made.load_id == 2
    unedited = sandbox.diff(warehouse.path, "threshold")
    assert (unedited.edited, unedited.differences) == ((), ())

    edit(
        project / "dbt_project.yml",
        "completion_threshold: 0.9",
        "completion_threshold: 0.95",
    )
    # What is published meanwhile is taken in, and is no difference.
    warehouse.land([ping("more", user_id="u3", position=99)])
    warehouse.refresh(now="", completion_threshold=0.9)
    snapshot.publish(warehouse.path)
    found = sandbox.diff(warehouse.path, "threshold")

    assert found.load_id == 3
    assert found.edited == ("projections.prj_video_progress",)
    assert "projections.prj_video_watch" not in found.downstream
    assert {"progress.v_user_progress", "exposure lms_progress_page"} <= set(
        found.downstream
    )
    assert "projections.prj_quiz_result" not in found.downstream
    by_table = {each.table: each for each in found.differences}
    # Learning analytics follows; its own tests say how.
    analytics = {table for table in by_table if table.startswith("analytics.")}
    assert {"analytics.v_course_funnel", "analytics.v_badge_award"} <= analytics
    assert by_table.keys() - analytics == {
        "projections.prj_badge_award",
        *("progress.v_user_progress", "projections.prj_video_progress"),
        *(
            "projections.prj_class_signal",
            "projections.prj_course_signal",
            "signals.lms_signal",
        ),
        *("signals.signal_rule", "projections.prj_user_signal_total"),
        *("monitoring.v_signal_summary", "monitoring.v_leaderboard"),
    }
    progress = by_table["progress.v_user_progress"]
    assert (progress.added, progress.gone, progress.changed) == (0, 0, 1)
    assert progress.columns_changed == {"video_completed": 1}
    [example] = progress.examples
    assert example.key == {"user_id": "u1", "class_id": "c1"}
    assert example.columns == {"video_completed": [1, 0]}
    assert by_table["signals.lms_signal"].gone == 3
    # Nobody else sees it.
    with published.opened(warehouse.path) as connection:
        shown = connection.sql("from progress.v_user_progress where user_id = 'u1'")
        assert shown.fetchall()[0][4] == 1
    sandbox.remove(warehouse.path, "threshold")
    assert sandbox.sandboxes(warehouse.path) == []


def test_an_edited_view_is_built_and_compared(
    warehouse: Warehouse, project: Path
) -> None:
    warehouse.land([ping("e1", position=95)])
    warehouse.refresh(now="")
    snapshot.publish(warehouse.path)
    sandbox.make(warehouse.path, "view")
    edit(
        project / "models/progress/v_user_progress.sql",
        "case when videos.completed_at is null then 0 else 1 end",
        "case when videos.completed_at is null then 1 else 0 end",
    )

    found = sandbox.diff(warehouse.path, "view")

    assert found.edited == ("progress.v_user_progress",)
    [difference] = found.differences
    assert difference.columns_changed == {"video_completed": 1}


def test_a_build_that_fails_is_told(warehouse: Warehouse, project: Path) -> None:
    warehouse.land([ping("e1")])
    warehouse.refresh(now="")
    snapshot.publish(warehouse.path)
    sandbox.make(warehouse.path, "broken")
    edit(
        project / "models/progress/v_user_progress.sql",
        "activity.class_id,",
        "activity.no_such_column as class_id,",
    )
    with pytest.raises(WarehouseError, match=r"broken: .*no_such_column"):
        sandbox.diff(warehouse.path, "broken")


def test_the_commands_make_list_and_remove(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(WAREHOUSE), *arguments], text=True, capture_output=True, check=False
        )

    early = command("sandbox", "mine")
    assert early.returncode == 1
    assert "run `warehouse refresh`" in early.stderr
    warehouse.land([ping("e1")])
    warehouse.refresh(now="")
    snapshot.publish(warehouse.path)
    assert "warehouse diff mine" in command("sandbox", "mine").stdout
    assert "is there already" in command("sandbox", "mine").stderr
    [listed] = json.loads(command("sandbox", "--json").stdout)
    assert (listed["name"], listed["load_id"]) == ("mine", 1)
    assert "no such sandbox" in command("diff", "nobodys").stderr
    assert "no name for a sandbox" in command("sandbox", "../escape").stderr
    assert command("sandbox", "mine", "--remove").returncode == 0
    assert json.loads(command("sandbox", "--json").stdout) == []
