"""Where a course loses its learners, and how far each of them is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from serving.reader import Reader, Row, is_few, without_numbers


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
    if steps:
        count = {"started": steps[0]["reached_count"] + steps[0]["lost_count"]}
    else:
        count = reader.row(
            f"""
            select count(*) as started from progress.course_activity
            where course_id = $course and {reader.courses("course_id")}
            """,
            course=course,
        )
    [started] = reader.suppressed([count], ("started",))
    shown = steps if reader.scope.sees_names else without_small_losses(steps)
    return Funnel(started["started"], shown)


def without_small_losses(steps: Sequence[Row]) -> list[Row]:
    """The steps of funnels, in order, as who may not see names is shown them.

    A loss is the difference of two counts: hidden in its own row alone, it could be
    computed from the rows around it. So a step loses its numbers if fewer than 5
    learners were lost since the last step that is shown, and the next that is shown has
    no loss of its own.
    """
    shown: list[Row] = []
    course_id, last, is_hidden = None, 0, False
    for step in steps:
        reached = step["reached_count"]
        if step["course_id"] != course_id:
            course_id, is_hidden = step["course_id"], False
            last = reached + step["lost_count"]
        counts = (reached, step["completed_count"], last - reached)
        if any(map(is_few, counts)):
            shown.append(without_numbers(step))
            is_hidden = True
            continue
        loss = {"lost_count": None, "lost_share": None} if is_hidden else {}
        shown.append({**step, **loss})
        last, is_hidden = reached, False
    return shown


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
