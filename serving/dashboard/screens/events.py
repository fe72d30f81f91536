"""The events behind a number: their ids, and the file and line that each came in."""

import streamlit as st

from serving import formats
from serving.dashboard.view import Page, drawn
from serving.questions.events import Selection, events
from serving.tables import Column

_AT_MOST = 1000


@drawn("Events", has_course=False)
def show(page: Page) -> None:
    selection = Selection.of_address(st.query_params.to_dict())
    found = events(page.reader, selection, limit=_AT_MOST)
    st.text(f"Of {selection.words()}")
    more = "" if found.total <= _AT_MOST else f", the newest {_AT_MOST:,} here"
    st.write(f"{formats.number(found.total)} events{more}.")
    page.table(
        (
            Column("event_id", "event id"),
            Column("type", "type"),
            Column("user_id", "learner", formats.text, page.learner),
            Column("class_id", "class"),
            Column("what", "what"),
            Column("occurred_at", "happened", page.moment),
            Column("load_id", "load"),
            Column("file", "file"),
            Column("line_number", "line"),
        ),
        found.rows,
        caption="Events, newest first",
        file="events",
        empty="No event stands behind this number: it is 0, or they were erased.",
    )
