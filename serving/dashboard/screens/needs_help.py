"""For instructors: who needs help, why, since when, and the events that say so."""

import streamlit as st

from serving import formats
from serving.dashboard.view import Page, drawn
from serving.questions import needs_help
from serving.tables import Column


@drawn("Needs help")
def show(page: Page) -> None:
    rows = needs_help.at_risk(page.reader)
    reason = st.selectbox(
        "Reason",
        sorted({row["reason"] for row in rows}),
        index=None,
        placeholder="Every reason",
        key="reason",
        bind="query-params",
    )
    chosen = [row for row in rows if reason in (None, row["reason"])]
    st.write(needs_help.in_words(chosen) if chosen else "")
    page.table(
        (
            Column("user_id", "learner", formats.text, page.learner),
            Column("course_id", "course"),
            Column("reason", "reason", needs_help.meaning),
            Column("detail", "what is seen"),
            Column("since", "since", page.moment),
            Column(
                *("event_count", "events", formats.number),
                lambda row: page.events(
                    kind="risk",
                    user=row["user_id"],
                    course=row["course_id"],
                    reason=row["reason"],
                ),
            ),
        ),
        chosen,
        caption="Learners with most reasons first, then who has waited longest",
        file="needs-help",
        empty="Nobody needs help in this scope.",
    )
