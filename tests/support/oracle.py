"""What the plain Python of `reference` makes of events and snapshots, compared with
every table and view of a warehouse, row for row."""

import csv
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

from orchestration.derive.dbt_project import DBT_PROJECT
from tests.support import reference, reference_analytics
from tests.support.builders import (
    NOW,
    RECEIVED_AT,
    Class,
    Json,
    Line,
    as_line,
    assert_same_rows,
)

# Each gives the columns of the oracle's table of that name, in the order of its rows.
QUERIES = {
    "lms_signal": """
        select
            type as signal_type, user_id, class_id, course_id, occurred_at,
            source_event_ids
        from signals.lms_signal
        order by type, user_id, coalesce(class_id, ''), coalesce(course_id, '')
    """,
    "v_user_progress": "from progress.v_user_progress order by user_id, class_id",
    "v_event_daily_stats": """
        select * replace (event_date::timestamp as event_date)
        from monitoring.v_event_daily_stats
        order by event_date, event_type
    """,
    "v_signal_summary": "from monitoring.v_signal_summary order by user_id",
    "v_leaderboard": "from monitoring.v_leaderboard order by user_id",
    "v_user_activity": "from monitoring.v_user_activity order by user_id",
    "video": """
        select
            user_id, class_id, ping_count, max_position_sec,
            (completed_at is not null)::integer as completed,
            completed_at, completed_event_id
        from projections.prj_video_progress
        order by user_id, class_id
    """,
    "quiz": """
        select
            user_id, class_id, submission_count,
            (passed_at is not null)::integer as passed,
            passed_at, passed_event_id, best_score, first_score, latest_score
        from projections.prj_quiz_result
        order by user_id, class_id
    """,
}


# Dates are midnights there.
ANALYTICS_QUERIES = {
    **{
        name: f"from analytics.{name} order by {key}"
        for name, key in {
            "v_video_engagement": "user_id, class_id",
            "v_video_retention": "class_id, bin",
            "v_course_progress": "user_id, course_id",
            "v_course_funnel": "course_id, step",
            "v_quiz_difficulty": "class_id",
            "v_badge_award": "user_id, badge",
            "v_leaderboard_v2": "user_id",
            "v_skill_mastery": "user_id, skill_id",
            "v_stale_user": "user_id",
            "v_abandoned_course": "user_id, course_id",
        }.items()
    },
    "v_learner_streak": """
        select * replace (last_active_on::timestamp as last_active_on)
        from analytics.v_learner_streak order by user_id
    """,
    "v_streak_history": """
        select * replace (
            started_on::timestamp as started_on, ended_on::timestamp as ended_on
        )
        from analytics.v_streak_history order by user_id, started_on
    """,
    "v_learner_at_risk": """
        select * exclude (detail)
        from analytics.v_learner_at_risk order by user_id, course_id, reason
    """,
    "v_kpi": """
        select columns(lambda c: not ends_with(c, '_level')) from analytics.v_kpi
    """,
}


def accepted_events(lines: Iterable[Line]) -> list[reference.Event]:
    """The events of lines that land in this order."""
    known: dict[str, reference.Accepted] = {}
    reference.classify([as_line(line) for line in lines], RECEIVED_AT, known)
    return [accepted.event for accepted in known.values()]


def catalogue_snapshots(
    snapshots: Iterable[tuple[str, Sequence[Class]]],
) -> list[reference.Snapshot]:
    """Snapshots that land in this order, each with its effective time."""
    return [
        reference.Snapshot(
            datetime.fromisoformat(time),
            RECEIVED_AT,
            [reference.CatalogueRow(**vars(row)) for row in classes],
        )
        for time, classes in snapshots
    ]


def seed(name: str) -> list[dict[str, str]]:
    [path] = DBT_PROJECT.glob(f"seeds/*/{name}.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


class Answers(Protocol):
    """A warehouse, or what was kept of one."""

    def records(self, query: str) -> list[Json]:
        """The rows as dicts."""


def assert_equal(
    warehouse: Answers,
    events: Sequence[reference.Event],
    snapshots: Sequence[reference.Snapshot],
    *,
    only: Collection[str] = (),
    skills: Sequence[tuple[str, str]] = (),
    **rules: Any,
) -> None:
    """Every table and view, or `only` some, has the rows that follow from these."""
    given = {"now": datetime.fromisoformat(NOW), **rules}
    derived = reference.derive(events, snapshots, **given)
    analytics = reference_analytics.derive(
        events,
        snapshots,
        badges=[
            reference_analytics.Badge(
                row["badge"], row["kind"], int(row["threshold"]), int(row["points"])
            )
            for row in seed("badge")
        ],
        levels={
            int(row["level"]): int(row["min_points"]) for row in seed("learner_level")
        },
        skills=skills,
        **given,
    )
    answers = {**vars(derived), **vars(analytics)}
    for name, query in {**QUERIES, **ANALYTICS_QUERIES}.items():
        if only and name not in only:
            continue
        frame = answers[name].drop(columns="best_max_score", errors="ignore")
        records = warehouse.records(query)
        if records:
            assert list(records[0]) == list(frame.columns), name
        rows = [
            tuple(tuple(v) if isinstance(v, list) else v for v in record.values())
            for record in records
        ]
        types = {column: str(kind) for column, kind in frame.dtypes.items()}
        found = reference.frame(types, rows)
        if name in ANALYTICS_QUERIES:
            # Exact numbers are added up there, doubles here: their last digits differ.
            places = dict.fromkeys(frame.select_dtypes("float"), 9)
            found, frame = found.round(places), frame.round(places)
        assert_same_rows(found, frame, name)
