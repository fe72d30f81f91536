"""For authors and instructors: where a course loses its learners."""

import streamlit as st

from serving import charts, formats
from serving.dashboard.view import Page, drawn
from serving.questions import course, overview
from serving.tables import Column

_DEFINITIONS = """
- **started**: learners with at least one event of a class of the course
- **reached** a step: learners who completed this step or a later one; it only descends
- **completed** a step: every part that the catalogue asks of it (video, quiz) is done
- **lost**: who reached the step before (of the first: who started) and not this one
"""


@drawn("Course")
def show(page: Page) -> None:
    if page.course is None:
        st.write("Choose a course:")
        for each in overview.courses(page.reader):
            page.lead(each, page.address("course", course=each))
        return
    _funnel(page, page.course)
    _progress(page, page.course)
    if page.reader.scope.sees_names:
        _leaderboard(page, page.course)


def _funnel(page: Page, chosen: str) -> None:
    st.header("Where it loses its learners")
    funnel = course.funnel(page.reader, chosen)
    if funnel.steps:
        page.chart(charts.funnel(funnel.steps, funnel.started))

    def reached(row: dict[str, int]) -> str | None:
        return page.events(kind="reached", course=chosen, step=row["step"])

    page.table(
        (
            Column("step", "step"),
            Column("title", "class"),
            Column("reached_count", "reached", formats.number, reached),
            Column(
                *("completed_count", "completed", formats.number),
                lambda row: page.events(
                    kind="signals", signal="STEP_COMPLETED", class_id=row["class_id"]
                ),
            ),
            Column(
                *("lost_count", "lost", formats.number),
                lambda row: page.events(kind="lost", course=chosen, step=row["step"]),
            ),
            Column("lost_share", "of those before", formats.share),
        ),
        funnel.steps,
        caption=f"{chosen}: {formats.number(funnel.started)} learners started",
        file="funnel",
        empty="No class of this course has a video or a quiz: nothing to complete.",
    )
    st.markdown(_DEFINITIONS)


def _progress(page: Page, chosen: str) -> None:
    st.header("Progress of its learners")
    page.table(
        (
            Column("status", "status"),
            Column("mastery_level", "level"),
            Column(
                *("learner_count", "learners", formats.number),
                lambda _: page.events(course=chosen),
            ),
        ),
        course.statuses(page.reader, chosen),
        caption="Learners by status and level",
        file="status",
        empty="Nobody has started this course.",
    )
    if not page.reader.scope.sees_names:
        return

    def own(row: dict[str, str]) -> str | None:
        return page.events(user=row["user_id"], course=chosen)

    rows = course.learners(page.reader, chosen)
    page.table(
        (
            Column("user_id", "learner", formats.text, page.learner),
            Column("steps_completed", "steps", formats.number, own),
            Column("steps_total", "of", formats.number),
            Column("progress_percent", "progress", formats.percent, own),
            Column("mastery_level", "level"),
            Column("status", "status"),
            Column("started_at", "started", page.moment),
            Column("last_event_at", "last event", page.moment),
            Column("completed_at", "completed", page.moment),
        ),
        rows,
        caption="Learners, furthest first",
        file="learners",
        empty="Nobody has started this course.",
    )


def _leaderboard(page: Page, chosen: str) -> None:
    st.header("Leaderboard")

    def signals(signal: str | None = None):  # type: ignore[no-untyped-def]
        return lambda row: page.events(
            kind="signals", user=row["user_id"], course=chosen, signal=signal
        )

    page.table(
        (
            Column("rank", "rank"),
            Column("user_id", "learner", formats.text, page.learner),
            Column("course_xp", "XP", formats.number, signals()),
            Column(
                *("video_completed_count", "videos", formats.number),
                signals("VIDEO_COMPLETED"),
            ),
            Column(
                *("quiz_passed_count", "quizzes", formats.number),
                signals("QUIZ_PASSED"),
            ),
            Column(
                *("step_completed_count", "steps", formats.number),
                signals("STEP_COMPLETED"),
            ),
        ),
        course.leaderboard(page.reader, chosen),
        caption="The first 20 by XP from this course",
        file="leaderboard",
        empty="Nobody has earned XP in this course yet.",
    )
