"""For instructors: who needs help, why, since when, and the events that say so."""

from collections import Counter

import streamlit as st

from serving import formats
from serving.dashboard.view import Page, drawn
from serving.questions import needs_help
from serving.tables import Column


def _meaning(reason: str) -> str:
    return needs_help.REASONS.get(reason, reason)


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
    learners = len({row["user_id"] for row in chosen})
    counts = Counter(row["reason"] for row in chosen)
    said = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    st.write(f"{learners} learners need help: {said}." if chosen else "")
    page.table(
        (
            Column("user_id", "learner", formats.text, page.learner),
            Column("course_id", "course"),
            Column("reason", "reason", _meaning),
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
