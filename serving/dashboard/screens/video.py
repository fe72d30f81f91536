"""For authors: what of a video is watched, watched again, and skipped."""

import streamlit as st

from serving import charts, formats
from serving.dashboard.view import Page, drawn
from serving.questions import video
from serving.reader import Row
from serving.tables import Column


@drawn("Video")
def show(page: Page) -> None:
    class_id = st.selectbox(
        "Video",
        video.classes(page.reader),
        index=None,
        placeholder="All videos",
        key="class_id",
        bind="query-params",
    )
    if class_id:
        _one(page, class_id)
    else:
        _all(page)


def _all(page: Page) -> None:
    def pings(row: Row) -> str | None:
        return page.events(class_id=row["class_id"], type="VIDEO_PING")

    page.table(
        (
            Column(
                *("class_id", "video", formats.text),
                lambda row: page.address("video", class_id=row["class_id"]),
            ),
            Column("title", "title"),
            Column("viewer_count", "viewers", formats.number, pings),
            Column("mean_coverage", "mean coverage", formats.share, pings),
            Column(
                *("completed_count", "completed", formats.number),
                lambda row: page.events(
                    kind="signals", signal="VIDEO_COMPLETED", class_id=row["class_id"]
                ),
            ),
            Column(
                *("dropped_count", "dropped", formats.number),
                lambda row: page.events(
                    kind="dropped", class_id=row["class_id"], type="VIDEO_PING"
                ),
            ),
            Column(
                *("skipped_count", "skipped to the end", formats.number),
                lambda row: page.events(
                    kind="skipped", class_id=row["class_id"], type="VIDEO_PING"
                ),
            ),
            Column("ping_count", "pings", formats.number, pings),
        ),
        video.videos(page.reader),
        caption="Every video with a viewer",
        file="videos",
        empty="No video in this course was watched yet.",
    )
    st.caption(
        "Coverage: the share of the 10-second pieces that a learner watched. Dropped: "
        "seen less than half, not completed."
    )


def _one(page: Page, class_id: str) -> None:
    retention = video.retention(page.reader, class_id)
    if not retention.bins:
        st.info("Nobody has watched this video, or its length is not known.")
        return
    st.header("Retention and replays")
    page.chart(charts.retention(retention.bins))

    def pings(row: Row) -> str | None:
        return page.events(kind="bin", class_id=class_id, bin=row["bin"])

    spots = [
        *({**row, "spot": "hot: watched again"} for row in retention.hot),
        *({**row, "spot": "cold: viewers leave"} for row in retention.cold),
    ]
    columns = (
        Column("bin_start_sec", "from", formats.length),
        Column("viewer_count", "viewers", formats.number, pings),
        Column("viewer_share", "of its learners", formats.share, pings),
        Column("ping_count", "pings", formats.number, pings),
        Column("replay_rate", "replays", formats.decimal, pings),
    )
    page.table(
        (Column("spot", "spot"), *columns),
        spots,
        caption="Hot and cold spots",
        file="spots",
        empty="No part is watched again, and nobody leaves.",
    )
    with st.expander("Every 10 seconds, as a table"):
        page.table(
            columns,
            retention.bins,
            caption="Every 10 seconds",
            file="retention",
            empty="",
        )
    st.header("How much of it was seen")
    page.chart(charts.tenths(video.coverage(page.reader, class_id), what="coverage"))
    if not page.reader.scope.sees_names:
        return

    def own(row: Row) -> str | None:
        return page.events(user=row["user_id"], class_id=class_id, type="VIDEO_PING")

    viewers = (
        Column("user_id", "learner", formats.text, page.learner),
        Column("coverage", "coverage", formats.share, own),
        Column("watched_sec", "watched", formats.length, own),
        Column("video_max_position_sec", "furthest", formats.length, own),
        Column("ping_count", "pings", formats.number, own),
        Column("last_ping_at", "last ping", page.moment),
    )
    st.header("Skipped to the end")
    page.table(
        viewers,
        video.viewers(page.reader, class_id, skipped=True),
        caption="Completed with less than half seen: a hint, never a verdict",
        file="skipped",
        empty="Nobody skipped to the end.",
    )
    st.header("Its learners")
    page.table(
        viewers,
        video.viewers(page.reader, class_id),
        caption="Learners, least seen first",
        file="viewers",
        empty="",
    )
