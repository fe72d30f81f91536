"""What who may not see names can compute of few learners."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from serving.questions.course import without_small_losses
from serving.reader import FEWEST_LEARNERS

FUNNELS = st.lists(st.integers(0, 40), min_size=2, max_size=8).map(
    lambda counts: sorted(counts, reverse=True)
)


def steps(course: str, counts: list[int]) -> list[dict[str, object]]:
    """The first count is of those who started."""
    return [
        {
            "course_id": course,
            "step": number,
            "reached_count": reached,
            "completed_count": reached,
            "lost_count": before - reached,
            "lost_share": (before - reached) / before if before else None,
            "is_steepest": 0,
        }
        for number, (before, reached) in enumerate(itertools.pairwise(counts), 1)
    ]


@given(FUNNELS, FUNNELS)
def test_no_loss_of_few_learners_follows_from_a_funnel(
    one: list[int], other: list[int]
) -> None:
    shown = without_small_losses([*steps("a", one), *steps("b", other)])
    for course, counts in (("a", one), ("b", other)):
        own = [row for row in shown if row["course_id"] == course]
        assert [row["step"] for row in own] == list(range(1, len(counts)))
        # Whoever knows how many started knows these.
        known = [counts[0]]
        for before, row in zip([None, *own], own, strict=False):
            if row["reached_count"] is None:
                assert row["lost_count"] is row["lost_share"] is None
                continue
            known.append(row["reached_count"])
            follows = before is None or before["reached_count"] is not None
            assert (row["lost_count"] is None) != follows
        for more, fewer in itertools.combinations(known, 2):
            assert more - fewer == 0 or more - fewer >= FEWEST_LEARNERS


def test_a_funnel_of_many_is_shown_as_it_is() -> None:
    whole = steps("a", [100, 90, 90, 70])
    assert without_small_losses(whole) == whole
