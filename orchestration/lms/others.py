"""The LMS's signals and leaderboard beside ours, where the export has them: counts.

What the two make of each class is explained in `compare`; signals follow from it, and
the leaderboard from the signals. Two differences are the LMS's own: it keeps one
COURSE_COMPLETED a learner, whatever the course, and its leaderboard joins each signal
with each badge of the learner, so that every count is multiplied by their number.
"""

import heapq
import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from ingest.lms.export import LEADERBOARD, SIGNALS, Export

_TYPES = ("VIDEO_COMPLETED", "QUIZ_PASSED", "STEP_COMPLETED", "COURSE_COMPLETED")
_COUNTS = ("video_completed_count", "quiz_passed_count")


@dataclass(frozen=True)
class SignalCount:
    """Of one type: how many both have, and one side only. `one_course_only` are those
    of ours that the LMS has no place for, since it has another course's."""

    type: str
    both: int
    only_theirs: int
    only_ours: int
    one_course_only: int


@dataclass(frozen=True)
class LeaderboardCount:
    """Learners: with the same counts, with theirs multiplied by their badges, other."""

    same: int
    multiplied: int
    different: int


def signal_counts(
    export: Export, connection: duckdb.DuckDBPyConnection
) -> tuple[SignalCount, ...] | None:
    """None where the export has no signals."""
    if not export.has(SIGNALS) or not {"type", "user_id", "course_id", "class_id"} <= (
        set(export.columns[SIGNALS])
    ):
        return None
    place = "case type when 'COURSE_COMPLETED' then course_id else class_id end"
    types = ", ".join(f"'{name}'" for name in _TYPES)
    theirs = export.rows(
        f"select distinct type, cast(user_id as text), cast({place} as text) "
        f"from {SIGNALS} where type in ({types}) order by 1, 2, 3"
    )
    ours = connection.cursor().execute(
        f"select type, user_id, {place} from signals.lms_signal order by 1, 2, 3"
    )
    found = {name: [0, 0, 0, 0] for name in _TYPES}
    sides = _side_by_side(theirs, ours)
    for (name, _user), rows in itertools.groupby(sides, key=lambda row: row[0][:2]):
        of_user = [has for _key, has in rows]
        counts = found[name.decode()]
        both = of_user.count({True, False})
        only_theirs, only_ours = of_user.count({True}), of_user.count({False})
        has_one = name == b"COURSE_COMPLETED" and both + only_theirs > 0
        for at, count in enumerate(
            (both, only_theirs, only_ours, only_ours if has_one else 0)
        ):
            counts[at] += count
    return tuple(SignalCount(name, *counts) for name, counts in found.items())


def leaderboard_counts(
    export: Export, connection: duckdb.DuckDBPyConnection
) -> LeaderboardCount | None:
    """None where the export has no leaderboard with these counts."""
    needed = {"user_id", "badges_count", *_COUNTS}
    if not export.has(LEADERBOARD) or not needed <= set(export.columns[LEADERBOARD]):
        return None
    names = ", ".join(_COUNTS)
    theirs = {
        user_id: (badges or 0, tuple(count or 0 for count in counts))
        for user_id, badges, *counts in export.rows(
            f"select cast(user_id as text), badges_count, {names} from {LEADERBOARD}"
        )
    }
    ours = {
        user_id: tuple(counts)
        for user_id, *counts in connection.execute(
            f"select user_id, {names} from monitoring.v_leaderboard"
        ).fetchall()
    }
    same = multiplied = different = 0
    nothing = (0,) * len(_COUNTS)
    for user_id in theirs.keys() | ours.keys():
        badges, their_counts = theirs.get(user_id, (0, nothing))
        our_counts = ours.get(user_id, nothing)
        if their_counts == our_counts:
            same += 1
        elif their_counts == tuple(count * badges for count in our_counts):
            multiplied += 1
        else:
            different += 1
    return LeaderboardCount(same, multiplied, different)


_Tagged = tuple[tuple[bytes, ...], bool]


def _side_by_side(
    theirs: Iterable[tuple[Any, ...]], ours: duckdb.DuckDBPyConnection
) -> Iterator[tuple[tuple[bytes, ...], set[bool]]]:
    """Each key of two sorted streams, and whether it is theirs, not theirs, or both."""

    def fetched() -> Iterator[tuple[Any, ...]]:
        while rows := ours.fetchmany(10_000):
            yield from rows

    merged = heapq.merge(_tagged(theirs, True), _tagged(fetched(), False))
    for key, group in itertools.groupby(merged, key=operator.itemgetter(0)):
        yield key, {is_theirs for _key, is_theirs in group}


def _tagged(rows: Iterable[tuple[Any, ...]], is_theirs: bool) -> Iterator[_Tagged]:
    for row in rows:
        texts = ("" if value is None else str(value) for value in row)
        # As bytes: SQLite and DuckDB sort text so.
        yield tuple(text.encode(errors="surrogateescape") for text in texts), is_theirs
