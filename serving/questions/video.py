"""What of a video is watched, watched again, and skipped."""

import itertools
from dataclasses import dataclass

from serving.reader import HALF, Reader, Row


@dataclass(frozen=True)
class Retention:
    """The bins of a video in order. `hot` are those watched again most, `cold` those
    before which most viewers left, at most three of each."""

    bins: list[Row]
    hot: list[Row]
    cold: list[Row]


def classes(reader: Reader) -> list[str]:
    """The classes with a ping, by course and position."""
    rows = reader.rows(
        f"""
        select watched.class_id
        from (select distinct class_id from projections.prj_video_watch) as watched
        left join catalogue.catalogue_class as classes
            on watched.class_id = classes.class_id
        where {reader.classes("watched.class_id")}
        order by classes.course_id nulls last, classes.position, watched.class_id
        """
    )
    return [row["class_id"] for row in rows]


def videos(reader: Reader) -> list[Row]:
    """One row for each class with a ping, by course and position."""
    rows = reader.rows(
        f"""
        select
            engagement.class_id,
            any_value(classes.course_id) as course_id,
            any_value(classes.title) as title,
            count(*) as viewer_count,
            avg(engagement.coverage) as mean_coverage,
            count(*) filter (engagement.video_completed = 1) as completed_count,
            count(*) filter (engagement.skipped_to_end = 1) as skipped_count,
            count(*) filter (
                engagement.video_completed = 0 and engagement.coverage < {HALF}
            ) as dropped_count,
            cast(sum(engagement.ping_count) as bigint) as ping_count
        from analytics.v_video_engagement as engagement
        left join catalogue.catalogue_class as classes
            on engagement.class_id = classes.class_id
        where {reader.classes("engagement.class_id")}
        group by engagement.class_id
        order by course_id nulls last, any_value(classes.position), engagement.class_id
        """
    )
    return reader.suppressed(
        rows, ("viewer_count", "completed_count", "skipped_count", "dropped_count")
    )


def retention(reader: Reader, class_id: str) -> Retention:
    bins = reader.suppressed(
        reader.rows(
            f"""
            select * exclude (class_id) from analytics.v_video_retention
            where class_id = $class_id and {reader.classes("class_id")}
            order by bin
            """,
            class_id=class_id,
        ),
        ("viewer_count",),
    )
    hot = sorted(
        (row for row in bins if (row["replay_rate"] or 0) > 0),
        key=lambda row: (-row["replay_rate"], row["bin"]),
    )
    lost = [
        {**after, "lost_count": before["viewer_count"] - after["viewer_count"]}
        for before, after in itertools.pairwise(bins)
        if before["viewer_count"] is not None and after["viewer_count"] is not None
    ]
    cold = sorted(
        (row for row in lost if row["lost_count"] > 0),
        key=lambda row: (-row["lost_count"], row["bin"]),
    )
    return Retention(bins, hot[:3], cold[:3])


def coverage(reader: Reader, class_id: str) -> list[Row]:
    """How many learners saw how much: tenths of coverage, from 0 to 9."""
    rows = reader.rows(
        f"""
        select tenths.tenth, count(engagement.user_id) as learner_count
        from range(10) as tenths (tenth)
        left join analytics.v_video_engagement as engagement
            on
                tenths.tenth = least(floor(engagement.coverage * 10), 9)
                and engagement.class_id = $class_id
                and {reader.classes("engagement.class_id")}
        group by tenths.tenth
        order by tenths.tenth
        """,
        class_id=class_id,
    )
    return reader.suppressed(rows, ("learner_count",))


def viewers(
    reader: Reader, class_id: str, *, skipped: bool = False, limit: int | None = None
) -> list[Row]:
    """Its learners, least seen first; only those who skipped to the end with `skipped`.
    Raises `NamesHidden`."""
    reader.needs_names()
    only_skipped = "and skipped_to_end = 1" if skipped else ""
    return reader.rows(
        f"""
        select * exclude (class_id) from analytics.v_video_engagement
        where
            class_id = $class_id and {reader.classes("class_id")}
            {only_skipped}
        order by coverage nulls last, user_id
        limit {limit or "all"}
        """,
        class_id=class_id,
    )
