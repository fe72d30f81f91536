"""The demo's landing zone: the same each time, honest about itself, and dirty enough.

What is read back is judged by the reference implementation, which shares no code with
the generator.
"""

import csv
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.demo import DemoSummary, write_demo_data
from tests.support.reference import Accepted, Event, Outcome, classify

UNTIL = datetime(2026, 10, 23, tzinfo=UTC)


def contents(path: Path) -> dict[str, bytes]:
    """Every file under `path`, by its name there, as it lies on the disk."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def unpacked(file: Path) -> bytes:
    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes())
    if file.suffix == ".zst":
        with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
            return bytes(stream.read())
    return file.read_bytes()


@dataclass(frozen=True)
class Landed:
    """A demo read back: the lines of each file, all outcomes, the accepted events."""

    path: Path
    summary: DemoSummary
    lines: dict[str, list[bytes]]
    outcomes: list[Outcome]
    accepted: list[Accepted]

    @property
    def events(self) -> list[Event]:
        return [accepted.event for accepted in self.accepted]

    def lines_of(self, kind: str) -> Iterator[bytes]:
        every_line = [line for lines in self.lines.values() for line in lines if line]
        for line, outcome in zip(every_line, self.outcomes, strict=True):
            if outcome.kind == kind:
                yield line


def land(path: Path, summary: DemoSummary) -> Landed:
    lines = {
        file.name: unpacked(file).split(b"\n")[:-1]
        for file in sorted((path / "events").iterdir())
    }
    known: dict[str, Accepted] = {}
    every_line = (line for content in lines.values() for line in content)
    outcomes = classify(every_line, UNTIL + timedelta(days=1), known)
    return Landed(path, summary, lines, outcomes, list(known.values()))


def counted(outcomes: list[Outcome]) -> tuple[int, int, int, int]:
    kinds = Counter(outcome.kind for outcome in outcomes)
    return kinds["accepted"], kinds["duplicate"], kinds["conflict"], kinds["rejected"]


def expected(summary: DemoSummary) -> tuple[int, int, int, int]:
    return summary.accepted, summary.duplicate, summary.conflict, summary.rejected


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Landed:
    path = tmp_path_factory.mktemp("demo")
    return land(path, write_demo_data(path))


def test_the_same_seed_writes_the_same_bytes(demo: Landed, tmp_path: Path) -> None:
    summary = write_demo_data(tmp_path / "again")

    assert contents(tmp_path / "again") == contents(demo.path)
    assert summary == demo.summary


def test_another_seed_writes_other_events(tmp_path: Path) -> None:
    write_demo_data(tmp_path / "one", learners=6, days=7, seed=1)
    write_demo_data(tmp_path / "two", learners=6, days=7, seed=2)

    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    events = {name for name in one.keys() & two.keys() if name.startswith("events")}
    assert events
    assert all(one[name] != two[name] for name in events)


def test_the_four_outcomes_add_up_to_the_lines(demo: Landed) -> None:
    not_blank = sum(bool(line) for lines in demo.lines.values() for line in lines)

    assert demo.summary.lines == not_blank == sum(expected(demo.summary))
    assert 20_000 <= demo.summary.lines <= 60_000


def test_landing_the_files_in_path_order_gives_the_promised_outcomes(
    demo: Landed,
) -> None:
    assert counted(demo.outcomes) == expected(demo.summary)
    assert min(expected(demo.summary)) > 0


@settings(max_examples=20, deadline=None)
@given(
    learners=st.integers(1, 8),
    days=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    hours_back=st.integers(0, 30),
)
def test_any_arguments_give_the_promised_outcomes_within_the_period(
    learners: int, days: int, seed: int, hours_back: int
) -> None:
    until = UNTIL - timedelta(hours=hours_back)
    with TemporaryDirectory() as folder:
        summary = write_demo_data(
            Path(folder), learners=learners, days=days, seed=seed, until=until
        )
        demo = land(Path(folder), summary)

    assert counted(demo.outcomes) == expected(summary)
    assert summary.lines == sum(expected(summary))
    moments = [event.occurred_at for event in demo.events]
    # One learner with one day, cut at an odd hour, may not have begun.
    assert until - timedelta(days=days) <= min(moments, default=until)
    # A conflict that landed before its original is 2 s off.
    assert max(moments, default=until) < until + timedelta(seconds=2)


def test_the_summary_counts_files_learners_days_courses_and_classes(
    demo: Landed,
) -> None:
    rows = [row for rows in catalogue(demo).values() for row in rows.values()]

    assert demo.summary.files == len(demo.lines)
    assert demo.summary.learners == len({event.user_id for event in demo.events}) == 65
    assert demo.summary.days == 21
    assert demo.summary.courses == len({row["course_id"] for row in rows}) == 4
    assert demo.summary.classes == len({row["class_id"] for row in rows})


def test_event_files_come_plain_and_in_both_compressions_and_every_one_ends_a_line(
    demo: Landed,
) -> None:
    files = sorted((demo.path / "events").iterdir())

    assert {file.suffix for file in files} == {".ndjson", ".gz", ".zst"}
    assert all(unpacked(file).endswith(b"\n") for file in files)
    assert all(lines.count(b"") < len(lines) for lines in demo.lines.values())


def test_every_day_of_the_period_has_its_file(demo: Landed) -> None:
    days = [name.split(".")[0] for name in demo.lines if name[0].isdigit()]

    assert days == [
        str(UNTIL.date() - timedelta(days=back)) for back in range(21, 0, -1)
    ]


def test_no_unfinished_file_stays_behind(demo: Landed) -> None:
    assert not [name for name in contents(demo.path) if "/." in name]


# --- catalogue ---


def catalogue(demo: Landed) -> dict[str, dict[str, dict[str, str]]]:
    """File name -> class_id -> row."""
    return {
        file.name: {
            row["class_id"]: row
            for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())
        }
        for file in sorted((demo.path / "catalogue").iterdir())
    }


def test_the_later_snapshot_adds_retires_and_renames_one_class(demo: Landed) -> None:
    snapshots = catalogue(demo)
    assert list(snapshots) == ["catalogue.csv", "effective_from=2026-10-16.csv"]
    first, second = snapshots.values()

    assert len(second.keys() - first.keys()) == 1
    assert len(first.keys() - second.keys()) == 1
    changed = [
        {name for name, value in row.items() if value != second[class_id][name]}
        for class_id, row in first.items()
        if class_id in second and row != second[class_id]
    ]
    assert changed == [{"title"}]


def test_classes_ask_for_a_video_a_quiz_both_or_nothing(demo: Landed) -> None:
    for rows in catalogue(demo).values():
        parts = {(row["has_video"], row["has_quiz"]) for row in rows.values()}
        assert parts == {("1", "0"), ("0", "1"), ("1", "1"), ("0", "0")}
        sizes = Counter(row["course_id"] for row in rows.values())
        assert all(5 <= size <= 8 for size in sizes.values())


def test_positions_in_a_course_are_distinct(demo: Landed) -> None:
    for rows in catalogue(demo).values():
        places = [(row["course_id"], row["position"]) for row in rows.values()]
        assert len(places) == len(set(places))


def test_events_keep_to_the_catalogue_in_force_except_for_one_class(
    demo: Landed,
) -> None:
    first, second = catalogue(demo).values()
    changed_at = datetime(2026, 10, 16, tzinfo=UTC)
    # A session that is under way at midnight goes on with the classes it began with.
    session_end = changed_at + timedelta(hours=6)
    used = {(event.class_id, event.occurred_at >= changed_at) for event in demo.events}
    (added,), (retired,) = second.keys() - first.keys(), first.keys() - second.keys()

    unknown = {class_id for class_id, _ in used} - first.keys() - second.keys()
    assert unknown == {"product-tour"}
    assert (added, True) in used
    assert (added, False) not in used
    assert (retired, False) in used
    assert not [
        event
        for event in demo.events
        if event.class_id == retired and event.occurred_at > session_end
    ]


# --- habits ---


@dataclass(frozen=True)
class Studied:
    """What one learner did: pings as (moment, position / duration), by class."""

    pings: dict[str, list[tuple[datetime, float]]]
    quizzes: set[str]
    passed: set[str]

    @property
    def completed(self) -> set[str]:
        return {
            class_id
            for class_id, pings in self.pings.items()
            if any(share >= 0.9 for _, share in pings)
        }


@pytest.fixture(scope="module")
def studied(demo: Landed) -> list[Studied]:
    by_user: defaultdict[str, Studied] = defaultdict(
        lambda: Studied(defaultdict(list), set(), set())
    )
    for event in sorted(demo.events, key=lambda event: event.occurred_at):
        learner = by_user[event.user_id]
        if event.type == "QUIZ_SUBMIT":
            learner.quizzes.add(event.class_id)
            if event.payload["passed"]:
                learner.passed.add(event.class_id)
        else:
            suffix = "_sec" if event.schema_version == 2 else ""
            share = (
                event.payload[f"position{suffix}"] / event.payload[f"duration{suffix}"]
            )
            learner.pings[event.class_id].append((event.occurred_at, share))
    return list(by_user.values())


def test_some_learners_finish_a_course_step_by_step_over_several_days(
    demo: Landed, studied: list[Studied]
) -> None:
    _, rows = catalogue(demo).values()

    def is_finished(learner: Studied, course_id: str) -> bool:
        return all(
            (row["has_video"] == "0" or class_id in learner.completed)
            and (row["has_quiz"] == "0" or class_id in learner.passed)
            for class_id, row in rows.items()
            if row["course_id"] == course_id
        )

    def goes_step_by_step(learner: Studied) -> bool:
        first_days = {pings[0][0].date() for pings in learner.pings.values()}
        lasts = [pings[-1][0] - pings[0][0] for pings in learner.pings.values()]
        seen = [
            any(0.3 < share < 0.9 for _, share in pings)
            for pings in learner.pings.values()
        ]
        return len(first_days) > 3 and max(lasts) < timedelta(hours=1) and all(seen)

    courses = {row["course_id"] for row in rows.values()}
    finishers = [
        learner
        for learner in studied
        if any(is_finished(learner, course_id) for course_id in courses)
        and goes_step_by_step(learner)
    ]
    assert len(finishers) > 5


def test_some_learners_take_many_classes_in_one_evening(studied: list[Studied]) -> None:
    assert any(
        len(
            {
                class_id
                for class_id, pings in learner.pings.items()
                if pings[0][0].date() == day
            }
        )
        >= 9
        for learner in studied
        for day in {pings[0][0].date() for pings in learner.pings.values()}
    )


def test_some_learners_complete_a_video_by_seeking_past_most_of_it(
    studied: list[Studied],
) -> None:
    skimmed = [
        pings
        for learner in studied
        for class_id, pings in learner.pings.items()
        if class_id in learner.completed
        and not [share for _, share in pings if 0.3 < share < 0.9]
    ]
    assert len(skimmed) > 5
    assert min(len(pings) for pings in skimmed) <= 6


def test_some_learners_drop_out_without_completing_anything(
    studied: list[Studied],
) -> None:
    assert any(
        learner.pings and not learner.completed and not learner.quizzes
        for learner in studied
    )


def test_some_learners_take_quizzes_without_opening_a_video(
    studied: list[Studied],
) -> None:
    assert any(learner.quizzes and not learner.pings for learner in studied)


def test_some_learners_watch_a_completed_video_again_on_another_day(
    studied: list[Studied],
) -> None:
    assert any(
        pings[-1][0] - next(moment for moment, share in pings if share >= 0.9)
        > timedelta(days=1)
        for learner in studied
        for class_id, pings in learner.pings.items()
        if class_id in learner.completed
    )


def test_some_quizzes_are_failed_then_passed_then_failed_again(demo: Landed) -> None:
    results: defaultdict[tuple[str, str], str] = defaultdict(str)
    for event in sorted(demo.events, key=lambda event: event.occurred_at):
        if event.type == "QUIZ_SUBMIT":
            results[event.user_id, event.class_id] += "FP"[event.payload["passed"]]

    assert any(result.endswith("FPF") for result in results.values())


def test_a_quiz_is_passed_from_80_percent_on(demo: Landed) -> None:
    for event in demo.events:
        if event.type == "QUIZ_SUBMIT":
            share = event.payload["score"] / event.payload["max_score"]
            assert event.payload["passed"] == (share >= 0.8), event


# --- what makes it dirty ---


def test_both_ping_contracts_are_sent_and_the_older_one_less(demo: Landed) -> None:
    versions = Counter(
        event.schema_version for event in demo.events if event.type == "VIDEO_PING"
    )
    assert 0 < versions[1] < versions[2] / 3


def test_late_files_hold_only_events_of_earlier_days_some_many_days_late(
    demo: Landed,
) -> None:
    known = {accepted.event.event_id: accepted.event for accepted in demo.accepted}
    days_late = [
        (date.fromisoformat(name[5:15]) - moment.date()).days
        for name, lines in demo.lines.items()
        if name.startswith("late-")
        for line in lines
        if (moment := moment_of(line, known))
    ]
    assert min(days_late) >= 1
    assert max(days_late) >= 4


def moment_of(line: bytes, known: dict[str, Event]) -> datetime | None:
    """When the accepted event of a line happened; None for a broken or a blank one."""
    try:
        return known[json.loads(line)["event_id"]].occurred_at
    except (ValueError, KeyError):
        return None


def test_the_retry_file_repeats_lines_of_one_earlier_file_byte_for_byte(
    demo: Landed,
) -> None:
    ((name, again),) = [
        item for item in demo.lines.items() if item[0].startswith("retry-")
    ]
    sources = [
        other
        for other, lines in demo.lines.items()
        if other < name and set(again) <= set(lines)
    ]
    assert len(again) > 10
    assert len(sources) == 1


def test_a_couple_of_percent_of_the_lines_are_duplicates(demo: Landed) -> None:
    assert 0.02 < demo.summary.duplicate / demo.summary.lines < 0.05


def test_conflicts_differ_in_their_moment_or_in_their_payload(demo: Landed) -> None:
    known = {accepted.event.event_id: accepted.event for accepted in demo.accepted}
    differences = set()
    for line in demo.lines_of("conflict"):
        found: dict[str, Any] = json.loads(line)
        first = known[found["event_id"]]
        moment = datetime.fromisoformat(found["occurred_at"])
        same_payload = replace(first, payload=found["payload"]) == first
        differences.add((moment == first.occurred_at, same_payload))

    assert differences == {(False, True), (True, False)}


def test_broken_lines_break_different_rules_in_different_files(demo: Landed) -> None:
    broken = set(demo.lines_of("rejected"))
    files = [name for name, lines in demo.lines.items() if broken & set(lines)]
    reasons = {
        (outcome.reason, outcome.field)
        for outcome in demo.outcomes
        if outcome.kind == "rejected"
    }
    assert len(files) >= 5
    assert len(reasons) >= 7
    assert any(b"\xff" in line for line in broken)


def test_there_are_blank_lines(demo: Landed) -> None:
    assert any(b"" in lines for lines in demo.lines.values())


def test_an_id_with_quotes_and_emoji_is_an_id_like_any_other(demo: Landed) -> None:
    assert 'zoë "z" o\'neil; 🎓' in {event.user_id for event in demo.events}


# --- arguments ---


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")

    with pytest.raises(FileExistsError, match="not an empty directory") as error:
        write_demo_data(tmp_path)

    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "demo"
    file.write_text("keep")

    with pytest.raises(FileExistsError, match="not an empty directory"):
        write_demo_data(file)

    assert file.read_text() == "keep"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"learners": 0}, "learners=0"),
        ({"days": 0}, "days=0"),
        ({"until": UNTIL.replace(tzinfo=None)}, "no offset"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(
    wrong: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=named):
        write_demo_data(tmp_path / "demo", **wrong)

    assert not (tmp_path / "demo").exists()
