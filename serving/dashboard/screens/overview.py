"""For admins: how it goes, and whether the numbers are fresh."""

import streamlit as st

from serving import charts, formats
from serving.dashboard.view import Page, drawn
from serving.questions import overview
from serving.tables import Column


@drawn("Overview")
def show(page: Page) -> None:
    page.kpis(overview.kpis(page.reader, page.course))
    daily = overview.daily(page.reader)
    events = daily.events
    st.header("Events and learners a day")
    if events:
        page.chart(
            charts.daily(
                events,
                day="event_date",
                kind="event_type",
                count="event_count",
                noun="events",
            )
        )
    if daily.learners:
        page.chart(charts.active_learners(daily.learners))
    with st.expander("Every day, as a table"):
        page.table(
            (
                Column("event_date", "day", formats.day),
                Column("event_type", "type"),
                Column(
                    *("event_count", "events", formats.number),
                    lambda row: page.events(
                        day=f"{row['event_date']}",
                        type=row["event_type"],
                        course=page.course,
                    ),
                ),
                Column(
                    *("user_count", "active learners", formats.number),
                    lambda row: page.events(
                        day=f"{row['event_date']}",
                        type=row["event_type"],
                        course=page.course,
                    ),
                ),
            ),
            events[::-1],
            caption=f"Events a day, newest first (days in {page.reader.time_zone})",
            file="events-a-day",
            empty="No event has arrived yet.",
        )
    signals = overview.daily_signals(page.reader)
    st.header("Signals a day")
    if signals:
        page.chart(
            charts.daily(
                signals,
                day="signal_date",
                kind="signal_type",
                count="signal_count",
                noun="signals",
            )
        )
    with st.expander("Every day's signals, as a table"):
        page.table(
            (
                Column("signal_date", "day", formats.day),
                Column("signal_type", "type"),
                Column(
                    *("signal_count", "signals", formats.number),
                    lambda row: page.events(
                        kind="signals",
                        day=f"{row['signal_date']}",
                        signal=row["signal_type"],
                        course=page.course,
                    ),
                ),
            ),
            signals[::-1],
            caption=f"Signals a day, newest first (days in {page.reader.time_zone})",
            file="signals-a-day",
            empty="No video was completed and no quiz passed yet.",
        )
    st.header("Freshness")
    fresh = overview.freshness(page.reader)
    st.write(
        f"The newest load came at {page.moment(fresh.newest_load_at)}, the newest "
        f"event happened at {page.moment(fresh.newest_event_at)} ({page.zone})."
    )
