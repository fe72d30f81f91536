"""For authors and instructors: which quizzes are hard, and how."""

import streamlit as st

from serving import charts, formats
from serving.dashboard.view import Page, drawn
from serving.questions import quiz
from serving.reader import Row
from serving.tables import Column


@drawn("Quiz")
def show(page: Page) -> None:
    quizzes = quiz.difficulty(page.reader)
    known = [row for row in quizzes if row["pass_rate"] is not None]
    if known:
        page.chart(charts.quiz_rates(known))

    def submissions(row: Row) -> str | None:
        return page.events(class_id=row["class_id"], type="QUIZ_SUBMIT")

    def passes(row: Row) -> str | None:
        return page.events(
            kind="signals", signal="QUIZ_PASSED", class_id=row["class_id"]
        )

    page.table(
        (
            Column("class_id", "quiz"),
            Column("title", "title"),
            Column("learner_count", "learners", formats.number, submissions),
            Column("submission_count", "submissions", formats.number, submissions),
            Column(*("first_try_pass_rate", "pass first", formats.share), submissions),
            Column("pass_rate", "pass in the end", formats.share, submissions),
            Column(
                *("median_attempts_to_pass", "attempts to pass", formats.number),
                passes,
            ),
            Column("score_ratio_mean", "mean", formats.share, submissions),
            Column("score_ratio_q25", "lower quarter", formats.share, submissions),
            Column("score_ratio_q50", "middle", formats.share, submissions),
            Column("score_ratio_q75", "upper quarter", formats.share, submissions),
        ),
        quizzes,
        caption="Quizzes, hardest first; scores are of each learner's best submission",
        file="quizzes",
        empty="No quiz in this course, or nobody has sent one in yet.",
    )
    if not quizzes:
        return
    class_id = st.selectbox(
        "Distribution of the scores of",
        [row["class_id"] for row in quizzes],
        key="class_id",
        bind="query-params",
    )
    page.chart(
        charts.tenths(quiz.scores(page.reader, str(class_id)), what="best score")
    )
