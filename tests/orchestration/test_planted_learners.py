"""The demo's planted learners, each in the view where they belong."""

from pathlib import Path
from typing import Any

import pytest

from ingest.demo import write_demo_data
from ingest.landing import zone
from tests.support.builders import Warehouse


@pytest.fixture(scope="module")
def demo(dbt: None, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("planted")
    write_demo_data(folder / "landing", learners=6)
    warehouse = Warehouse(folder)
    assert zone.land_zone(folder / "landing", warehouse.path).failures == ()
    warehouse.refresh(now="2026-10-23 00:00:00")
    return warehouse


FOUND: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "who skips to the end": (
        """
        select class_id, video_completed, coverage < 0.2
        from analytics.v_video_engagement
        where user_id = 'skips-to-the-end' and skipped_to_end = 1
        """,
        [("sql-first-query/joins", 1, True)],
    ),
    "who fails a quiz four times": (
        """
        select course_id, reason, detail, len(source_event_ids)
        from analytics.v_learner_at_risk where user_id = 'fails-four-times'
        """,
        [
            (
                "python-first-steps",
                "failing_quiz",
                "python-first-steps/project: 4 submissions, none passed",
                4,
            )
        ],
    ),
    "who stopped": (
        """
        select course_id, reason, len(source_event_ids)
        from analytics.v_learner_at_risk where user_id = 'stopped' order by reason
        """,
        [("data-literacy", "inactive", 1), ("data-literacy", "stalled_video", 2)],
    ),
    "who came seven days in a row": (
        """
        select current_days, longest_days, badge
        from analytics.v_learner_streak
        inner join analytics.v_badge_award using (user_id)
        where user_id = 'seven-day-streak' order by badge
        """,
        [(7, 7, "streak-3"), (7, 7, "streak-7")],
    ),
    "who watches at double speed": (
        """
        select class_id, coverage, skipped_to_end, ping_count < 40
        from analytics.v_video_engagement where user_id = 'double-speed'
        """,
        [("python-first-steps/loops", 1.0, 0, True)],
    ),
}


@pytest.mark.parametrize(("query", "rows"), FOUND.values(), ids=FOUND.keys())
def test_a_planted_learner_is_found_in_the_view_where_they_belong(
    demo: Warehouse, query: str, rows: list[tuple[Any, ...]]
) -> None:
    assert demo.rows(query) == rows


def test_all_of_them_are_there_within_a_shorter_period(tmp_path: Path) -> None:
    summary = write_demo_data(tmp_path / "demo", learners=1, days=11)

    assert summary.learners == 6
