"""An analyst edits a rule: state of the old rule is never mixed with the new one."""

import shutil
from pathlib import Path

import pytest

from orchestration.derive import dbt_project, dbt_runner
from tests.support.builders import Warehouse, ping, quiz

pytestmark = pytest.mark.long


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the dbt project, to be edited."""
    project = tmp_path / "dbt_project"
    shutil.copytree(
        dbt_project.DBT_PROJECT,
        project,
        ignore=shutil.ignore_patterns("target", "logs"),
    )
    monkeypatch.setattr(dbt_project, "DBT_PROJECT", project)
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    return project


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


EDITS = {
    "a shared macro": (
        "macros/engine.sql",
        "regexp_full_match({{ column }}",
        "({{ column }} = 'k9') or regexp_full_match({{ column }}",
    ),
    "a view between": (
        "models/staging/stg_event.sql",
        "{{ is_blank('course_id') }}",
        "(course_id = 'k9')",
    ),
}


@pytest.mark.parametrize(("file", "old", "new"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_above_a_model_starts_it_over(
    project: Path, warehouse: Warehouse, file: str, old: str, new: str
) -> None:
    warehouse.land([ping("e1", course="k9")])
    warehouse.refresh()
    assert warehouse.value("select course_id from progress.v_user_progress") == "k9"

    edit(project / file, old, new)
    warehouse.refresh()

    assert warehouse.value("select course_id from progress.v_user_progress") is None


def test_a_comment_in_one_model_leaves_the_others_as_they_are(
    project: Path, warehouse: Warehouse
) -> None:
    fingerprints = "select model, rule_fingerprint from bookkeeping.watermark"
    warehouse.land([ping("e1")])
    warehouse.refresh()
    before = dict(warehouse.rows(fingerprints))

    model = project / "models/projections/prj_course_signal.sql"
    edit(model, "with\n", "-- Edited.\nwith\n")
    warehouse.refresh()

    after = dict(warehouse.rows(fingerprints))
    assert {model for model in after if after[model] != before[model]} == {
        *("prj_course_signal", "prj_user_signal_total", "prj_badge_award")
    }


def test_a_refresh_that_merges_has_the_rule_of_one_that_starts_over(
    warehouse: Warehouse,
) -> None:
    """Some macros are called only when a model merges: they are its rule, too."""
    fingerprints = "select model, rule_fingerprint from bookkeeping.watermark"
    warehouse.land([ping("e1"), quiz("e2")])
    warehouse.refresh()
    started_over = dict(warehouse.rows(fingerprints))

    warehouse.land([ping("e3", user="u2"), quiz("e4")])
    warehouse.refresh()

    assert dict(warehouse.rows(fingerprints)) == started_over
    pings = "select sum(ping_count) from projections.prj_video_progress"
    assert warehouse.value(pings) == 2
    quizzes = "select sum(len(submissions)) from projections.prj_quiz_attempt"
    assert warehouse.value(quizzes) == 2


def test_an_edited_seed_starts_over_what_is_made_with_it(
    project: Path, warehouse: Warehouse
) -> None:
    awarded = "select badge from analytics.v_badge_award order by all"
    warehouse.land([ping("e1", position=95), ping("e2", in_class="c2", position=95)])
    warehouse.refresh()
    assert warehouse.rows(awarded) == [("first-video",)]

    edit(project / "seeds/signals/badge.csv", "video_count,5,25", "video_count,2,25")
    warehouse.refresh()

    assert warehouse.rows(awarded) == [("first-video",), ("video-5",)]


def test_a_run_without_rows_makes_nothing_count_twice(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1"), ping("e2")])
    warehouse.refresh()

    dbt_runner.invoke(["run", "--empty"], warehouse.path)
    warehouse.refresh()

    counted = "select sum(event_count) from projections.prj_class_activity"
    assert warehouse.value(counted) == 2
