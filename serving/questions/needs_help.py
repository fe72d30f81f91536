"""Who needs help, and why."""

from collections import Counter
from collections.abc import Sequence

from serving.reader import Reader, Row

# What each reason means, for people.
REASONS = {
    "inactive": "Inactive: started, not completed, no event for days",
    "failing_quiz": "Failing a quiz: many submissions, none passed",
    "stalled_video": "Stalled: several videos begun and left below half",
}


def meaning(reason: str) -> str:
    return REASONS.get(reason, reason)


def in_words(rows: Sequence[Row]) -> str:
    """How many learners need help, and how many of them for each reason."""
    learners = len({row["user_id"] for row in rows})
    by_reason = Counter(
        reason for _, reason in {(row["user_id"], row["reason"]) for row in rows}
    )
    said = "; ".join(
        f"{count}: {meaning(reason)}"
        for reason, count in sorted(by_reason.items(), key=lambda each: -each[1])
    )
    return f"{learners} learners need help. {said}."


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
