"""How the platform, or the courses in scope, are doing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from serving import formats
from serving.questions.events import Selection
from serving.reader import HALF, NOW, Reader, Row


@dataclass(frozen=True)
class Kpi:
    """One number, as people read it, with its level (`ok`, `warning`, `critical`, or
    None without one), what it means, and the events behind it."""

    name: str
    label: str
    value: str
    level: str | None
    meaning: str
    events: Selection


_KPIS: tuple[tuple[Any, ...], ...] = (
    ("learner_count", "Learners", "number", "With at least one event", "events", {}),
    (
        *("active_24h_count", "Active in 24 hours", "number"),
        *("Learners with an event in the last 24 hours", "active", {"hours": 24}),
    ),
    (
        *("active_7d_count", "Active in 7 days", "number"),
        *("Learners with an event in the last 7 days", "active", {"hours": 168}),
    ),
    (
        *("active_30d_count", "Active in 30 days", "number"),
        *("Learners with an event in the last 30 days", "active", {"hours": 720}),
    ),
    (
        *("completion_rate", "Completion", "share"),
        "Courses completed, of the courses that learners started",
        *("signals", {"signal": "COURSE_COMPLETED"}),
    ),
    (
        *("engagement_rate", "Engagement", "share"),
        *("Learners active in 7 days, of all", "active", {"hours": 168}),
    ),
    (
        *("drop_off_rate", "Video drop-off", "share"),
        "Videos seen less than half and not completed, of the videos started",
        *("dropped", {}),
    ),
    (
        *("mean_quiz_score_ratio", "Mean quiz score", "share"),
        "Each learner's best submission of each quiz, on average",
        *("events", {"type": "QUIZ_SUBMIT"}),
    ),
    (
        *("mean_current_streak", "Mean streak", "decimal"),
        *("Days in a row, up to today or yesterday", "in_streak", {}),
    ),
    (
        *("orphan_share", "Orphan signals", "share"),
        "Signals whose source event is missing: always 0, or something is broken",
        *("signals", {}),
    ),
    (
        *("stale_share", "Stale learners", "share"),
        *("Without an event for 30 days, of all learners", "stale", {}),
    ),
    (
        *("abandoned_share", "Abandoned courses", "share"),
        "Started, not completed, no event for 30 days; of the courses started",
        *("abandoned", {}),
    ),
)


def kpis(reader: Reader, course: str | None = None) -> list[Kpi]:
    """The platform's, from `v_kpi`; in a narrower scope the same numbers of its
    courses, without those that are about learners as a whole."""
    if reader.scope.courses is None:
        values = reader.row("select * from analytics.v_kpi")
    else:
        values = _of_courses(reader)
    return [
        Kpi(
            name,
            label,
            getattr(formats, form)(values[name]),
            values.get(f"{name}_level"),
            meaning,
            Selection(kind=kind, course=course, **more),
        )
        for name, label, form, meaning, kind, more in _KPIS
        if name in values
    ]


def _of_courses(reader: Reader) -> Row:
    values = reader.row(
        f"""
        with

        progress as (

            select * from analytics.v_course_progress
            where {reader.courses("course_id")}

        ),

        videos as (

            select * from analytics.v_video_engagement
            where {reader.classes("class_id")}

        ),

        quizzes as (

            select * from analytics.v_quiz_difficulty
            where {reader.classes("class_id")}

        )

        select
            count(distinct user_id) as learner_count,
            count(distinct user_id) filter (last_event_at > {NOW} - interval '24 hours')
                as active_24h_count,
            count(distinct user_id) filter (last_event_at > {NOW} - interval '7 days')
                as active_7d_count,
            count(distinct user_id) filter (last_event_at > {NOW} - interval '30 days')
                as active_30d_count,
            count(*) filter (status = 'completed') / nullif(count(*), 0)
                as completion_rate,
            count(distinct user_id) filter (last_event_at > {NOW} - interval '7 days')
            / nullif(count(distinct user_id), 0) as engagement_rate,
            (
                select
                    count(*) filter (video_completed = 0 and coverage < {HALF})
                    / nullif(count(*), 0)
                from videos
            ) as drop_off_rate,
            (
                select
                    sum(score_ratio_mean * learner_count)
                    / nullif(sum(learner_count), 0)
                from quizzes
            ) as mean_quiz_score_ratio,
            count(*) filter (status = 'abandoned') / nullif(count(*), 0)
                as abandoned_share
        from progress
        """
    )
    [shown] = reader.suppressed([values], ("learner_count",))
    for name in ("active_24h_count", "active_7d_count", "active_30d_count"):
        [cell] = reader.suppressed([{name: shown[name]}], (name,))
        shown[name] = cell[name]
    if shown["active_7d_count"] is None:
        shown["engagement_rate"] = None
    levels = {
        row["kpi"]: row for row in reader.rows("select * from analytics.kpi_level")
    }
    return {
        **shown,
        **{
            f"{name}_level": _level(value, levels[name])
            for name, value in shown.items()
            if name in levels
        },
    }


def _level(value: float | None, rule: Row) -> str | None:
    """As the seed `kpi_level` says, and `v_kpi` for the platform."""
    if value is None:
        return None
    sign = 1 if rule["worse_when"] == "high" else -1
    for level in ("critical", "warning"):
        if rule[level] is not None and sign * value >= sign * rule[level]:
            return level
    return "ok"


def courses(reader: Reader) -> list[str]:
    """The courses of today's catalogue."""
    rows = reader.rows(
        f"""
        select distinct course_id from catalogue.catalogue_class
        where is_retired = 0 and {reader.courses("course_id")}
        order by course_id
        """
    )
    return [row["course_id"] for row in rows]


@dataclass(frozen=True)
class Daily:
    """`events` are day, type, events, learners; `learners` day, learners with an event:
    of the last days that have any."""

    events: list[Row]
    learners: list[Row]


def daily(reader: Reader, days: int = 60) -> Daily:
    of_scope = _daily if reader.scope.courses is None else _daily_of_courses
    events, learners = of_scope(reader, days)
    return Daily(
        reader.suppressed(events, ("user_count",)),
        reader.suppressed(learners, ("user_count",)),
    )


def _daily(reader: Reader, days: int) -> tuple[list[Row], list[Row]]:
    # The day is a value in what follows: DuckDB counts no learners of earlier ones.
    newest = reader.row(
        "select max(active_on) as active_on from projections.prj_active_day"
    )
    after = {"after": newest["active_on"] and newest["active_on"] - timedelta(days)}
    return (
        reader.rows(
            """
            select * from monitoring.v_event_daily_stats
            where event_date > $after
            order by event_date, event_type
            """,
            **after,
        ),
        reader.rows(
            """
            select active_on, count(*) as user_count from projections.prj_active_day
            where active_on > $after
            group by active_on
            order by active_on
            """,
            **after,
        ),
    )


def _daily_of_courses(reader: Reader, days: int) -> tuple[list[Row], list[Row]]:
    """Read of the events: no state has a learner's days by class."""
    found = reader.rows(
        f"""
        with

        counted as (

            select
                {reader.day("occurred_at")} as event_date,
                type as event_type,
                count(*) as event_count,
                count(distinct user_id) as user_count,
                grouping(type) as is_day
            from raw.lms_event
            where
                {reader.classes("class_id")}
                and occurred_at > {NOW} - to_days({days + 1})
            group by grouping sets ((event_date, event_type), (event_date))

        )

        select * from counted
        where event_date > (select max(event_date) from counted) - {days}
        order by event_date, event_type
        """
    )
    events, learners = [], []
    for row in found:
        if row.pop("is_day"):
            of_day = {"active_on": row["event_date"], "user_count": row["user_count"]}
            learners.append(of_day)
        else:
            events.append(row)
    return events, learners


def daily_signals(reader: Reader, days: int = 60) -> list[Row]:
    """Day, type, signals; of the last days that have any."""
    condition = f"({reader.courses('course_id')} or {reader.classes('class_id')})"
    newest = reader.row(
        f"""
        select max({reader.day("occurred_at")}) as day from signals.lms_signal
        where {condition}
        """
    )
    rows = reader.rows(
        f"""
        select
            {reader.day("occurred_at")} as signal_date,
            type as signal_type,
            count(*) as signal_count,
            count(distinct user_id) as user_count
        from signals.lms_signal
        where {condition} and {reader.day("occurred_at")} > $after
        group by signal_date, signal_type
        order by signal_date, signal_type
        """,
        after=newest["day"] and newest["day"] - timedelta(days),
    )
    return reader.suppressed(rows, ("user_count",))


@dataclass(frozen=True)
class Freshness:
    """What the numbers stand on; times are naive, in UTC."""

    load_id: int
    published_at: datetime
    newest_load_at: datetime | None
    newest_event_at: datetime | None


def freshness(reader: Reader) -> Freshness:
    row = reader.row(
        """
        select
            (select max(received_at) from raw.load) as newest_load_at,
            (select max(last_event_at) from projections.prj_class_activity)
                as newest_event_at
        """
    )
    return Freshness(reader.load_id, reader.published_at, **row)
