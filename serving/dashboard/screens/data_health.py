"""For whoever is on call: runs, snapshots, dead letters, loads and lag."""

import streamlit as st

from serving import formats
from serving.dashboard.view import Page, drawn
from serving.questions import data_health
from serving.reader import Row
from serving.tables import Column


@drawn("Data health", has_course=False)
def show(page: Page) -> None:
    totals = data_health.totals(page.reader)
    st.write(
        f"{formats.number(totals['lines_read'])} lines read: "
        + ", ".join(
            f"{formats.number(totals[name])} {name}"
            for name in ("accepted", "duplicate", "conflict", "rejected", "erased")
        )
        + f"; {formats.number(totals['lines_unaccounted'])} unaccounted for."
    )
    _runs(page)
    _snapshots(page)
    _dead_letters(page)
    _loads(page)
    _lag(page)


def _runs(page: Page) -> None:
    st.header("Last runs")
    page.table(
        (
            Column("kind", "run"),
            Column("ended_at", "ended", page.moment),
            Column("outcome", "outcome"),
        ),
        data_health.runs(page.reader, page.settings.warehouse),
        caption="How the last refresh, check and reconcile ended",
        file="runs",
        empty="No run is noted beside the warehouse; `warehouse refresh`, `warehouse "
        "check` and `warehouse reconcile` note how they ended.",
    )


def _snapshots(page: Page) -> None:
    st.header("Snapshots")
    page.table(
        (
            Column("file", "file"),
            Column("load_id", "through load"),
            Column("published_at", "published", page.moment),
            Column("bytes", "size without events", formats.bytes_of),
            Column("state", "state"),
        ),
        data_health.snapshots(page.reader, page.settings.published_snapshot),
        caption="The published files that are kept, newest first",
        file="snapshots",
        empty="Nothing was published yet.",
    )


def _dead_letters(page: Page) -> None:
    st.header("Dead letters")
    page.table(
        (
            Column("reason", "reason"),
            Column("field", "field"),
            Column(
                *("dead_letter_count", "lines", formats.number),
                lambda row: page.address(
                    "data_health", reason=row["reason"], field=row["field"]
                ),
            ),
            Column("first_seen", "first", page.moment),
            Column("last_seen", "last", page.moment),
            Column("repair", "what to do"),
        ),
        data_health.dead_letters(page.reader),
        caption="Lines that were not accepted, by reason",
        file="dead-letters",
        empty="Every line was accepted or is a duplicate.",
    )
    reason = st.query_params.get("reason")
    if reason and page.reader.scope.sees_names:
        page.table(
            (
                Column("letter", "dead letter"),
                Column("event_id", "event id"),
                Column("file", "file"),
                Column("line_number", "line"),
                Column("detail", "what is wrong"),
                Column("first_seen", "seen", page.moment),
            ),
            data_health.letters(
                page.reader, reason, st.query_params.get("field") or None
            ),
            caption=f"The newest dead letters with the reason {reason}",
            file="letters",
            empty="No dead letter has this reason now.",
        )
        st.write(
            "`warehouse dead-letters show ID` shows the line; `retry`, `discard` and "
            "`export` act on it."
        )


def _loads(page: Page) -> None:
    st.header("Loads")

    def of_load(row: Row) -> str | None:
        return page.events(load=row["load_id"]) if row["kind"] == "events" else None

    page.table(
        (
            Column("load_id", "load"),
            Column("kind", "kind"),
            Column("file", "file"),
            Column("received_at", "landed", page.moment),
            Column("lines_read", "lines", formats.number, of_load),
            Column("accepted", "accepted", formats.number, of_load),
            Column("duplicate", "duplicate", formats.number),
            Column("conflict", "conflict", formats.number),
            Column("rejected", "rejected", formats.number),
            Column("erased", "erased", formats.number),
            Column("lines_unaccounted", "unaccounted", formats.number),
        ),
        data_health.loads(page.reader, limit=500),
        caption="The newest loads, and what became of their lines",
        file="loads",
        empty="Nothing was landed yet.",
    )


def _lag(page: Page) -> None:
    st.header("Models")
    page.table(
        (
            Column("model", "model"),
            Column("load_id", "through load"),
            Column("consumed_at", "at", page.moment),
            Column("loads_behind", "loads behind", formats.number),
            Column("events_behind", "events behind", formats.number),
            Column("checked_load_id", "tests passed through load"),
        ),
        data_health.lag(page.reader),
        caption="What each model had taken in when the snapshot was made",
        file="models",
        empty="No model says what it has taken in.",
    )
