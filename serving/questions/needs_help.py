"""Who needs help, and why."""

from dataclasses import dataclass

from serving import formats
from serving.reader import Reader, Row

# What each reason means, for people.
REASONS = {
    "inactive": "Inactive: started, not completed, no event for days",
    "failing_quiz": "Failing a quiz: many submissions, none passed",
    "stalled_video": "Stalled: several videos begun and left below half",
}


def meaning(reason: str) -> str:
    return REASONS.get(reason, reason)


@dataclass(frozen=True)
class Summary:
    """How many rows there are, of how many learners, and how many for each reason."""

    row_count: int
    learner_count: int
    by_reason: dict[str, int]

    def in_words(self) -> str:
        said = "; ".join(
            f"{formats.number(count)}: {meaning(reason)}"
            for reason, count in sorted(
                self.by_reason.items(), key=lambda each: (-each[1], each[0])
            )
        )
        return f"{formats.number(self.learner_count)} learners need help. {said}."


def summary(reader: Reader, reason: str | None = None) -> Summary:
    """Of one reason, or of all. Raises `NamesHidden`."""
    reader.needs_names()
    rows = reader.rows(
        f"""
        select
            reason, count(*) as row_count, count(distinct user_id) as learner_count
        from analytics.v_learner_at_risk
        where
            {reader.courses("course_id")}
            and ($reason is null or reason = $reason)
        group by rollup (reason)
        """,
        reason=reason,
    )
    [total] = [row for row in rows if row["reason"] is None]
    return Summary(
        total["row_count"],
        total["learner_count"],
        {row["reason"]: row["learner_count"] for row in rows if row["reason"]},
    )


def at_risk(
    reader: Reader, reason: str | None = None, *, limit: int | None = None
) -> list[Row]:
    """One row for each learner, course and reason; who has most reasons comes first,
    then who has waited longest. Raises `NamesHidden`."""
    reader.needs_names()
    return reader.rows(
        f"""
        select *, len(source_event_ids) as event_count
        from analytics.v_learner_at_risk
        where
            {reader.courses("course_id")}
            and ($reason is null or reason = $reason)
        order by
            count(*) over (partition by user_id) desc,
            min(since) over (partition by user_id),
            user_id, course_id, reason
        limit {limit or "all"}
        """,
        reason=reason,
    )
