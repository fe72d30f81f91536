"""Who needs help, and why."""

from serving.reader import Reader, Row

# What each reason means, for people.
REASONS = {
    "inactive": "Inactive: started, not completed, no event for days",
    "failing_quiz": "Failing a quiz: many submissions, none passed",
    "stalled_video": "Stalled: several videos begun and left below half",
}


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
