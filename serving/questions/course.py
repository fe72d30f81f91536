"""Where a course loses its learners, and how far each of them is."""

from dataclasses import dataclass
from datetime import date

from serving.reader import Reader, Row


@dataclass(frozen=True)
class Funnel:
    """The steps of a course in order; `steepest` is the one with the greatest loss."""

    started: int | None
    steps: list[Row]

    @property
    def steepest(self) -> Row | None:
        return next((step for step in self.steps if step["is_steepest"]), None)


def funnel(reader: Reader, course: str) -> Funnel:
    steps = reader.rows(
        f"""
        select funnel.*, classes.title
        from analytics.v_course_funnel as funnel
        inner join catalogue.catalogue_class as classes
            on funnel.class_id = classes.class_id
        where funnel.course_id = $course and {reader.courses("funnel.course_id")}
        order by funnel.step
        """,
        course=course,
    )
    [count] = reader.rows(
        f"""
        select count(*) as started from analytics.v_course_progress
        where course_id = $course and {reader.courses("course_id")}
        """,
        course=course,
    )
    [started] = reader.suppressed([count], ("started",))
    return Funnel(
        started["started"],
        reader.suppressed(steps, ("reached_count", "completed_count", "lost_count")),
    )


def new_since(reader: Reader, since: date) -> Row:
    """Of the courses in scope: learners with an event since that day, courses started
    and completed since, learners with a new reason to need help."""
    row = reader.row(
        f"""
        select
            count(distinct user_id) filter (
                {reader.day("last_event_at")} >= $since
            ) as active_count,
            count(*) filter ({reader.day("started_at")} >= $since) as started_count,
            count(*) filter ({reader.day("completed_at")} >= $since)
                as completed_count,
            (
                select count(distinct user_id) from analytics.v_learner_at_risk
                where
                    {reader.day("since")} >= $since
                    and {reader.courses("course_id")}
            ) as risk_count
        from analytics.v_course_progress
        where {reader.courses("course_id")}
        """,
        since=since,
    )
    [shown] = reader.suppressed([row], list(row))
    return shown


def statuses(reader: Reader, course: str) -> list[Row]:
    """Status, level, learners."""
    rows = reader.rows(
        f"""
        select status, mastery_level, count(*) as learner_count
        from analytics.v_course_progress
        where course_id = $course and {reader.courses("course_id")}
        group by status, mastery_level
        order by status, min(progress_percent)
        """,
        course=course,
    )
    return reader.suppressed(rows, ("learner_count",))


def learners(
    reader: Reader, course: str, *, limit: int | None = None, offset: int = 0
) -> list[Row]:
    """Everyone who started the course, furthest first. Raises `NamesHidden`."""
    reader.needs_names()
    return reader.rows(
        f"""
        select * exclude (course_id), count(*) over () as total
        from analytics.v_course_progress
        where course_id = $course and {reader.courses("course_id")}
        order by progress_percent desc nulls last, last_event_at desc, user_id
        limit {limit or "all"} offset {offset}
        """,
        course=course,
    )


def leaderboard(reader: Reader, course: str, *, limit: int = 20) -> list[Row]:
    """XP of the signals of this course alone: equal XP, equal rank, the next rank
    skips. Raises `NamesHidden`."""
    reader.needs_names()
    return reader.rows(
        f"""
        with

        totals as (

            select
                made.user_id,
                cast(sum(types.xp) as bigint) as course_xp,
                count(*) filter (made.type = 'VIDEO_COMPLETED')
                    as video_completed_count,
                count(*) filter (made.type = 'QUIZ_PASSED') as quiz_passed_count,
                count(*) filter (made.type = 'STEP_COMPLETED')
                    as step_completed_count
            from signals.lms_signal as made
            inner join signals.signal_type as types on made.type = types.type
            where
                (
                    made.course_id = $course
                    or made.class_id in (
                        select class_id from catalogue.catalogue_class
                        where course_id = $course
                    )
                )
                and $course in (select course_id from catalogue.catalogue_class
                    where {reader.courses("course_id")})
            group by made.user_id

        )

        select rank() over (order by course_xp desc) as rank, *
        from totals
        order by rank, user_id
        limit {limit}
        """,
        course=course,
    )
