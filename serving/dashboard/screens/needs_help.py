"""For instructors: who needs help, why, since when, and the events that say so."""

import streamlit as st

from serving import formats
from serving.dashboard.view import Page, drawn
from serving.questions import needs_help
from serving.tables import Column

_AT_MOST = 1000


@drawn("Needs help")
def show(page: Page) -> None:
    summary = needs_help.summary(page.reader)
    reason = st.selectbox(
        "Reason",
        sorted(summary.by_reason),
        index=None,
        placeholder="Every reason",
        key="reason",
        bind="query-params",
    )
    if reason:
        summary = needs_help.summary(page.reader, reason)
    if summary.row_count:
        st.write(summary.in_words())
    if summary.row_count > _AT_MOST:
        st.write(
            f"The first {_AT_MOST:,} of {summary.row_count:,} rows are here; the CSV "
            "file has all."
        )
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
        needs_help.at_risk(page.reader, reason, limit=_AT_MOST),
        caption="Learners with most reasons first, then who has waited longest",
        file="needs-help",
        empty="Nobody needs help in this scope.",
        all_rows=lambda reader: needs_help.at_risk(reader, reason),
    )
