"""Who needs help, and why."""

from serving.reader import Reader, Row


def at_risk(reader: Reader) -> list[Row]:
    """One row for each learner, course and reason; who has most reasons comes first,
    then who has waited longest. Raises `NamesHidden`."""
    reader.needs_names()
    return reader.rows(
        f"""
        select *, len(source_event_ids) as event_count
        from analytics.v_learner_at_risk
        where {reader.courses("course_id")}
        order by
            count(*) over (partition by user_id) desc,
            min(since) over (partition by user_id),
            user_id, course_id, reason
        """
    )
