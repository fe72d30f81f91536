"""For instructors and support: everything of one learner."""

from typing import Any

import streamlit as st

from serving import charts, formats, tables
from serving.dashboard.view import Page, drawn
from serving.questions import learner, needs_help
from serving.questions.why import register_at
from serving.reader import Reader, Row
from serving.tables import Column


@drawn("Learner")
def show(page: Page) -> None:
    page.reader.needs_names()
    user = st.text_input("Learner's id", key="user", bind="query-params")
    if not user:
        st.write("Type an id, or a part of it.")
        return
    steps = learner.steps(page.reader, user)
    if steps:
        _show(page, user, steps)
        return
    found = learner.found(page.reader, user)
    for each in found:
        page.lead(each, page.address("learner", user=each))
    if not found:
        st.info(f"No learner's id contains {user!r}.")


def _show(page: Page, user: str, steps: list[Row]) -> None:
    reader = page.reader
    st.header(f"Learner {_plain(user)}")
    for risk in learner.risks(reader, user):
        reason = needs_help.REASONS.get(risk["reason"], risk["reason"])
        page.lead(
            f"Needs help in {risk['course_id']}: {reason} ({risk['detail']})",
            page.events(
                kind="risk",
                user=user,
                course=risk["course_id"],
                reason=risk["reason"],
            ),
        )
    streak = learner.streak(reader, user)
    if streak:
        st.write(
            f"Streak: {streak['current_days']} days now, {streak['longest_days']} at "
            f"most; last active on {formats.day(streak['last_active_on'])}."
        )

    def of_class(kind: str | None = None):  # type: ignore[no-untyped-def]
        return lambda row: page.events(user=user, class_id=row["class_id"], type=kind)

    page.table(
        (
            Column("course_id", "course"),
            Column(
                *("steps_completed", "steps", formats.number),
                lambda row: page.events(user=user, course=row["course_id"]),
            ),
            Column("steps_total", "of", formats.number),
            Column(
                *("progress_percent", "progress", formats.percent),
                lambda row: page.events(user=user, course=row["course_id"]),
            ),
            Column("mastery_level", "level"),
            Column("status", "status"),
            Column("last_event_at", "last event", page.moment),
        ),
        learner.courses(reader, user),
        caption="Courses",
        file="courses",
        empty="The learner has started no course of today's catalogue.",
    )
    touched = {row["class_id"] for row in steps if row["video_completed"] is not None}

    def any_events(row: Row) -> str | None:
        return of_class()(row) if row["class_id"] in touched else None

    register = register_at(page.settings.quiz_register)
    st.header("Why a step is not done")
    page.table(
        (
            Column("class_id", "class", formats.text, any_events),
            Column("title", "title"),
            Column("because", "why"),
            Column("parts", "what there is"),
        ),
        [
            {
                "class_id": each.class_id,
                "title": each.title,
                "because": each.because,
                "parts": "; ".join(
                    f"{part.part}: {part.because}" for part in each.parts
                ),
            }
            for each in learner.not_done(reader, user, steps, register)
        ],
        caption="Steps that are not done",
        file="why",
        empty="Every step of the courses that the learner started is done.",
    )
    st.header("Steps")
    page.table(
        (
            Column("course_id", "course"),
            Column("class_id", "class", formats.text, any_events),
            Column("title", "title"),
            Column("completed_at", "step done", page.moment),
            Column("video_completed", "video done", _yes),
            Column(
                *("video_max_position_sec", "furthest", formats.length),
                of_class("VIDEO_PING"),
            ),
            Column("quiz_passed", "quiz passed", _yes),
            Column("quiz_score", "score", formats.number, of_class("QUIZ_SUBMIT")),
        ),
        steps,
        caption="Steps",
        file="steps",
        empty="No step.",
    )
    _videos(page, user)
    _quizzes(page, user)
    _signals(page, user)
    days = learner.daily(reader, user)
    if days:
        st.header("Timeline")
        page.chart(charts.timeline(days))
    st.header("The whole record")

    def record(reader: Reader) -> dict[str, Any]:
        return learner.record(reader, user)

    st.download_button(
        "The whole record as JSON",
        page.made_later(record, tables.as_json),
        "learner.json",
        "application/json",
        on_click="ignore",
    )
    st.download_button(
        "The whole record as CSV",
        page.made_later(record, lambda made: tables.as_csv(learner.record_rows(made))),
        "learner.csv",
        "text/csv",
        on_click="ignore",
    )


def _videos(page: Page, user: str) -> None:
    videos = learner.videos(page.reader, user)
    st.header("Videos")
    if any(row["bin_count"] for row in videos):
        page.chart(charts.coverage_strips(videos))

    def pings(row: Row) -> str | None:
        return page.events(user=user, class_id=row["class_id"], type="VIDEO_PING")

    page.table(
        (
            Column("class_id", "video"),
            Column("coverage", "coverage", formats.share, pings),
            Column("watched_sec", "watched", formats.length, pings),
            Column("duration_sec", "of", formats.length),
            Column("video_completed", "completed", _yes),
            Column("skipped_to_end", "skipped to the end", _yes),
            Column("ping_count", "pings", formats.number, pings),
        ),
        videos,
        caption="Videos",
        file="videos",
        empty="The learner has watched no video.",
    )


def _quizzes(page: Page, user: str) -> None:
    st.header("Quizzes")

    def submissions(row: Row) -> str | None:
        return page.events(user=user, class_id=row["class_id"], type="QUIZ_SUBMIT")

    page.table(
        (
            Column("class_id", "quiz"),
            Column("submission_count", "submissions", formats.number, submissions),
            Column("best_score_ratio", "best", formats.share, submissions),
            Column("first_score", "first score", formats.number, submissions),
            Column("latest_score", "latest score", formats.number, submissions),
            Column("passed_at", "passed", page.moment),
        ),
        learner.quizzes(page.reader, user),
        caption="Quizzes",
        file="quizzes",
        empty="The learner has sent in no quiz.",
    )


def _signals(page: Page, user: str) -> None:
    st.header("Signals and badges")
    page.table(
        (
            Column("occurred_at", "when", page.moment),
            Column(
                *("type", "signal", formats.text),
                lambda row: page.events(
                    kind="signals",
                    user=user,
                    signal=row["type"],
                    class_id=row["class_id"],
                    course=row["course_id"],
                ),
            ),
            Column("class_id", "class"),
            Column("course_id", "course"),
            Column("rule_version", "rule version"),
        ),
        learner.signals(page.reader, user),
        caption="Signals",
        file="signals",
        empty="The learner has no signal yet.",
    )
    page.table(
        (
            Column("awarded_at", "when", page.moment),
            Column("title", "badge"),
            Column(
                *("points", "points", formats.number),
                lambda row: page.events(kind="badge", user=user, badge=row["badge"]),
            ),
        ),
        learner.badges(page.reader, user),
        caption="Badges",
        file="badges",
        empty="The learner has no badge, or you see one course only.",
    )


def _yes(value: int | None) -> str:
    return formats.NOTHING if value is None else ("yes" if value else "no")


def _plain(text: str) -> str:
    """Text that Streamlit's Markdown shows as it is."""
    return "".join(
        f"\\{char}" if char in "\\`*_{}[]()#+-.!|<>~:$" else char for char in text
    )
