"""Producers: events as the warehouse takes them, and a spool that loses none."""

import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.contracts.events import (
    LARGEST_LINE_BYTES,
    Contract,
    Payload,
    QuizSubmitV1,
    VideoPingV2,
    contracts,
    field_names,
)
from ingest.contracts.validation import Rejection, examine
from ingest.landing.lines import is_event_file
from ingest.spool.writer import Event, SpoolError, SpoolFull, SpoolWriter, new_event
from tests.support.builders import Warehouse

PROJECT = Path(__file__).parents[3]
AT = datetime(2026, 3, 10, 10, tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def make(payload: Payload | None = None, **fields: Any) -> Event:
    return new_event(
        payload or VideoPingV2(video_id="v1", position_sec=10, duration_sec=100),
        **{"user_id": "u1", "class_id": "c1", "occurred_at": AT, **fields},
    )


# --------------------------------------------------------------------------------------
# Events
# --------------------------------------------------------------------------------------


def test_an_event_says_its_contract_and_when_it_happened_in_utc() -> None:
    event = make(
        QuizSubmitV1(quiz_id="q1", score=7, max_score=10, passed=True),
        course_id="k1",
        event_id="tally-1",
        occurred_at=datetime(2026, 3, 10, 12, 0, 0, 5, timezone(timedelta(hours=2))),
    )
    assert event.to_line().endswith(b"\n")
    assert json.loads(event.to_line()) == {
        "event_id": "tally-1",
        "type": "QUIZ_SUBMIT",
        "schema_version": 1,
        "user_id": "u1",
        "class_id": "c1",
        "course_id": "k1",
        "occurred_at": "2026-03-10T10:00:00.000005Z",
        "payload": {"quiz_id": "q1", "score": 7, "max_score": 10, "passed": True},
    }


def test_what_is_not_given_is_left_out() -> None:
    line = json.loads(make().to_line())
    assert "course_id" not in line
    assert line["payload"].keys() == {"video_id", "position_sec", "duration_sec"}


def test_each_event_has_an_id_of_its_own() -> None:
    assert make().event_id != make().event_id


def test_an_event_cannot_be_changed() -> None:
    event = make()
    with pytest.raises(AttributeError):
        event.user_id = "u2"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        event.payload.position_sec = 99  # type: ignore[attr-defined]


PING = {"video_id": "v1", "position_sec": 10, "duration_sec": 100}


@pytest.mark.parametrize(
    ("payload", "fields", "message"),
    [
        ({"position_sec": -1}, {}, "payload.position_sec: Expected `float` >= 0.0"),
        ({"duration_sec": 0}, {}, "payload.duration_sec: Expected `float` > 0.0"),
        (
            {"position_sec": "12"},
            {},
            "payload.position_sec: Expected `float`, got `str`",
        ),
        ({"position_sec": math.inf}, {}, "payload.position_sec: not a finite number"),
        ({"playback_rate": math.inf}, {}, "payload.playback_rate: not a finite number"),
        ({"position_sec": 10**400}, {}, "payload.position_sec: Number out of range"),
        ({"video_id": AT}, {}, "payload.video_id: Expected `str`, got `datetime`"),
        ({"video_id": "\ud800"}, {}, "payload.video_id: not UTF-8 text"),
        ({}, {"user_id": " "}, "user_id: "),
        ({}, {"class_id": 7}, "class_id: Expected `str`, got `int`"),
        ({}, {"course_id": "\udfff"}, "course_id: not UTF-8 text"),
        ({}, {"event_id": "x" * 257}, "event_id: Expected `str` of length <= 256"),
        ({}, {"occurred_at": datetime(2026, 3, 10)}, "occurred_at: needs a datetime"),
        ({}, {"occurred_at": "2026-03-10"}, "occurred_at: needs a datetime"),
        (
            {},
            {"occurred_at": datetime(1999, 12, 31, tzinfo=UTC)},
            "occurred_at: before 2000-01-01",
        ),
        (
            {},
            {"occurred_at": datetime.now(UTC) + timedelta(days=2)},
            "occurred_at: more than 24 h after it was received",
        ),
        (
            {},
            {"occurred_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))},
            "occurred_at: no such year",
        ),
        ({"session_id": "x" * LARGEST_LINE_BYTES}, {}, "at most 1048576 fit"),
    ],
)
def test_what_would_be_rejected_is_refused_with_the_field_in_one_line(
    payload: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        make(VideoPingV2(**{**PING, **payload}), **fields)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("VideoPingV2: ")


def test_a_score_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"payload\.score: Expected `score` <= "):
        make(QuizSubmitV1(quiz_id="q1", score=11, max_score=10, passed=True))


def test_only_a_contract_is_sent() -> None:
    with pytest.raises(ValueError, match="payload: Payload is no contract"):
        make(Payload())


values = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**20), max_value=10**20)
    | st.floats()
    | st.text(max_size=5)
)
numbers = st.integers(0, 1000) | st.floats(min_value=0)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    """A payload of any contract; about half of them are as the contract wants them."""
    contract: Contract = draw(st.sampled_from(sorted(contracts().values(), key=str)))
    usual = {
        **dict.fromkeys(field_names(contract), numbers),
        **dict.fromkeys(("video_id", "quiz_id", "session_id"), texts),
        "passed": st.booleans(),
    }
    fields: dict[str, Any] = {name: draw(usual[name]) for name in field_names(contract)}
    if draw(st.booleans()):
        fields[draw(st.sampled_from(field_names(contract)))] = draw(values)
    return contract(**fields)


@settings(max_examples=150, deadline=None)
@given(payload=payloads(), user_id=texts | values)
def test_a_producer_refuses_exactly_what_landing_rejects(
    payload: Payload, user_id: Any
) -> None:
    as_anyone_would_write_it = json.dumps(
        {
            "event_id": "e1",
            "type": payload.TYPE,
            "schema_version": payload.VERSION,
            "user_id": user_id,
            "class_id": "c1",
            "occurred_at": "2026-03-10T10:00:00Z",
            "payload": msgspec.structs.asdict(payload),
        }
    )
    landed = examine(as_anyone_would_write_it, utc_now())
    try:
        event = make(payload, event_id="e1", user_id=user_id)
    except ValueError:
        assert isinstance(landed, Rejection)
    else:
        assert examine(event.to_line().decode(), utc_now()) == landed


def test_a_producer_needs_no_database_and_no_orchestrator() -> None:
    heavy = ("duckdb", "pyarrow", "pandas", "dagster", "dbt")
    code = (
        "import sys, ingest.spool.writer;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------
# The spool
# --------------------------------------------------------------------------------------


class Folders:
    """A spool and a landing zone on one file system."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "spool"
        self.landing = folder / "landing" / "events"

    def writer(self, **options: Any) -> SpoolWriter:
        return SpoolWriter(self.spool, self.landing, **options)

    def unfinished(self) -> list[Path]:
        return sorted(self.spool.iterdir())

    def landed_ids(self) -> list[str]:
        """Of every line of every file that can be landed, which are all complete."""
        ids = []
        for file in self.landing.iterdir():
            assert is_event_file(file)
            content = file.read_bytes()
            assert content.endswith(b"\n")
            ids += [json.loads(line)["event_id"] for line in content.splitlines()]
        return sorted(ids)

    def leave_behind(self, content: bytes) -> Path:
        """A file as a process that was killed leaves it in the spool."""
        self.spool.mkdir(exist_ok=True)
        path = self.spool / "20260310T100000-x.ndjson.part"
        path.write_bytes(content)
        return path


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def wait_until(condition: Any, timeout_sec: float = 60) -> None:
    deadline = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_put_is_landed(folders: Folders, warehouse: Warehouse) -> None:
    events = [make() for _ in range(50)]
    with folders.writer() as spool:
        for event in events:
            spool.put(event)
    [file] = folders.landing.iterdir()
    [load] = warehouse.land_files(file, received_at=utc_now()).loads
    assert (load.lines_read, load.accepted) == (50, 50)
    assert folders.unfinished() == []


def test_flush_returns_when_everything_put_is_synced(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[int, int] = {}
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        stat = os.fstat(descriptor)
        synced[stat.st_ino] = stat.st_size

    monkeypatch.setattr(os, "fsync", fsync)
    with folders.writer() as spool:
        for count in range(1, 4):
            for _ in range(100):
                spool.put(make())
            spool.flush()
            [file] = folders.unfinished()
            assert synced[file.stat().st_ino] == file.stat().st_size
            assert file.read_bytes().count(b"\n") == 100 * count
        # The folder too: else a power cut may take the file's name.
        assert folders.spool.stat().st_ino in synced
    assert folders.landing.stat().st_ino in synced


def test_a_file_goes_to_the_landing_zone_when_it_is_large_enough(
    folders: Folders,
) -> None:
    line_bytes = len(make().to_line())
    with folders.writer(max_bytes=5 * line_bytes) as spool:
        for _ in range(12):
            spool.put(make())
            spool.flush()
        wait_until(lambda: len(list(folders.landing.iterdir())) == 2)
        assert len(folders.unfinished()) == 1
        assert len(folders.landed_ids()) == 10
    assert len(folders.landed_ids()) == 12


def test_a_file_goes_to_the_landing_zone_when_it_is_old_enough(
    folders: Folders,
) -> None:
    with folders.writer(max_age_sec=0.05) as spool:
        spool.put(make(event_id="e1"))
        wait_until(lambda: any(folders.landing.iterdir()))
        assert folders.landed_ids() == ["e1"]
        assert folders.unfinished() == []


def test_a_writer_without_events_leaves_no_file(folders: Folders) -> None:
    with folders.writer(max_age_sec=0.01):
        time.sleep(0.05)
    assert list(folders.landing.iterdir()) == []
    assert folders.unfinished() == []


def test_many_threads_put_without_loss(folders: Folders) -> None:
    def put(name: str) -> None:
        for number in range(100):
            spool.put(make(event_id=f"{name}-{number:03}"), timeout_sec=10)
        spool.flush()
        [file] = folders.unfinished()
        assert file.read_text().count(f'"{name}-') == 100

    with folders.writer() as spool:
        threads = [threading.Thread(target=put, args=(n,)) for n in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert folders.landed_ids() == sorted(
        f"{n}-{i:03}" for n in "abcd" for i in range(100)
    )


def test_closing_on_a_disk_that_hangs_comes_to_an_end(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = folders.writer()
    with hanging_disk(monkeypatch):
        spool.put(make(event_id="e1"))
        with pytest.raises(SpoolError, match=r"^1 events are not on disk"):
            spool.close(timeout_sec=0.05)
    spool.close()
    assert folders.landed_ids() == ["e1"]


@contextmanager
def hanging_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    released = threading.Event()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        released.wait()
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        try:
            yield
        finally:
            released.set()


def test_a_disk_that_hangs_blocks_no_producer_and_loses_nothing(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    with folders.writer(max_waiting_bytes=2000) as spool:
        with hanging_disk(monkeypatch):
            started = time.monotonic()
            while len(taken) < 100:
                try:
                    spool.put(make(event_id=f"e{len(taken)}"), timeout_sec=0.1)
                except SpoolFull:
                    break
                taken.append(f"e{len(taken)}")
            assert 0 < len(taken) < 100
            assert time.monotonic() - started < 5
            with pytest.raises(SpoolError, match=f"^{len(taken)} events are not on"):
                spool.flush(timeout_sec=0.05)
        spool.flush()
    assert folders.landed_ids() == sorted(taken)


def test_a_full_disk_is_told_and_writing_goes_on_when_there_is_room(
    folders: Folders,
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with folders.writer() as spool:
        spool.put(make(event_id="e0"))
        spool.flush()
        try:
            # The kernel writes as much as fits, and then refuses: half a line.
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            for number in range(1, 10):
                spool.put(make(event_id=f"e{number}"))
            with pytest.raises(SpoolError, match=r"not on disk \(File too large\)"):
                spool.flush(timeout_sec=0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        spool.flush()
    assert folders.landed_ids() == [f"e{number}" for number in range(10)]


def test_half_a_line_that_cannot_be_taken_back_is_followed_by_none(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ftruncate(descriptor: int, size: int) -> None:
        raise OSError("broken")

    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 1000:
            return write(descriptor, data[:1000])
        raise OSError("broken")

    with folders.writer() as spool:
        spool.put(make(event_id="e0"))
        spool.flush()
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", no_ftruncate)
            patch.setattr(os, "write", half)
            for number in range(1, 10):
                spool.put(make(event_id=f"e{number}"))
            with pytest.raises(SpoolError, match="broken"):
                spool.flush(timeout_sec=0.2)
        spool.flush()
    assert folders.unfinished() == []
    # Some lines may have reached both files: the same event twice is one event.
    assert set(folders.landed_ids()) == {f"e{number}" for number in range(10)}


def test_a_landing_zone_that_is_gone_keeps_the_file_in_the_spool(
    folders: Folders,
) -> None:
    spool = folders.writer()
    spool.put(make(event_id="e1"))
    folders.landing.rmdir()
    with pytest.raises(SpoolError, match="the last file stays there"):
        spool.close()
    folders.writer().close()
    assert folders.landed_ids() == ["e1"]


def test_a_closed_spool_takes_nothing(folders: Folders) -> None:
    spool = folders.writer()
    spool.close()
    with pytest.raises(SpoolError, match="closed"):
        spool.put(make())
    spool.close()


def test_a_writer_of_the_process_before_a_fork_is_refused(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folders.writer() as spool:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(SpoolError, match="made before a fork"):
                spool.put(make())
        spool.put(make())


def test_a_spool_on_another_file_system_is_refused(tmp_path: Path) -> None:
    with TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the file system of the temporary folder")
        with pytest.raises(SpoolError, match="different file systems"):
            SpoolWriter(Path(elsewhere), tmp_path / "landing")


# --------------------------------------------------------------------------------------
# After a crash
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [b"", b"{", b'{"event_id":"' + b"x" * 100_000])
def test_the_next_writer_hands_on_what_was_left_behind_less_a_torn_line(
    folders: Folders, torn: bytes
) -> None:
    lines = [make(event_id=f"e{number}").to_line() for number in range(3)]
    left_behind = folders.leave_behind(b"".join(lines) + torn)
    folders.writer().close()
    assert not left_behind.exists()
    assert folders.landed_ids() == ["e0", "e1", "e2"]


@pytest.mark.parametrize("content", [b"", b'{"event_id":"torn'])
def test_a_file_without_a_complete_line_is_removed(
    folders: Folders, content: bytes
) -> None:
    folders.leave_behind(content)
    folders.writer().close()
    assert folders.unfinished() == []
    assert list(folders.landing.iterdir()) == []


def test_the_file_of_a_writer_that_lives_is_left_to_it(folders: Folders) -> None:
    with folders.writer() as first:
        first.put(make(event_id="e1"))
        first.flush()
        with folders.writer() as second:
            assert len(folders.unfinished()) == 1
            second.put(make(event_id="e2"))
        assert folders.landed_ids() == ["e2"]
        first.put(make(event_id="e3"))
    assert folders.landed_ids() == ["e1", "e2", "e3"]


PUT_UNTIL_KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from ingest.contracts.events import VideoPingV2
from ingest.spool.writer import SpoolWriter, new_event

spool = SpoolWriter(Path(sys.argv[1]), Path(sys.argv[2]), max_bytes=20_000)
number = 0
while True:
    for _ in range(20):
        spool.put(
            new_event(
                VideoPingV2(video_id="v1", position_sec=1, duration_sec=9),
                user_id="u1",
                class_id="c1",
                occurred_at=datetime(2026, 3, 10, tzinfo=UTC),
                event_id=f"{sys.argv[3]}-{number}",
            ),
            timeout_sec=10,
        )
        number += 1
    spool.flush()
    print(number, flush=True)
"""


def test_nothing_flushed_is_lost_when_the_process_is_killed(folders: Folders) -> None:
    promised: set[str] = set()
    chance = random.Random(5)
    for attempt in range(5):
        arguments = (folders.spool, folders.landing, f"p{attempt}")
        process = subprocess.Popen(
            [sys.executable, "-c", PUT_UNTIL_KILLED, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        first = process.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        flushed = [first, *process.stdout.read().splitlines()]
        process.wait()
        promised |= {f"p{attempt}-{number}" for number in range(int(flushed[-1]))}
        for file in folders.landing.iterdir():
            assert file.read_bytes().endswith(b"\n")
    folders.writer().close()
    landed = folders.landed_ids()
    assert folders.unfinished() == []
    assert len(landed) == len(set(landed))
    assert promised <= set(landed)
    assert len(promised) >= 100


# --------------------------------------------------------------------------------------
# docs/producers.md
# --------------------------------------------------------------------------------------

PAGE = (PROJECT / "docs" / "producers.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def assert_lands_as_the_page_says(folder: Path, warehouse: Warehouse) -> None:
    """Four new lines, the last of them as it is printed on the page."""
    [file] = (folder / "data" / "landing" / "events").iterdir()
    [load] = warehouse.land_files(file, received_at=utc_now()).loads
    assert (load.lines_read, load.accepted) == (4, 4)
    assert file.read_text().splitlines()[-1] in PAGE


def test_the_producer_in_python_does_what_the_page_says(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    [program] = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"```\n{done.stdout}```\n" in PAGE
    assert_lands_as_the_page_says(tmp_path, warehouse)


def test_the_producer_in_javascript_does_what_the_page_says(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    [program] = blocks("javascript")
    (tmp_path / "producer.mjs").write_text(program)
    subprocess.run(["node", "producer.mjs"], cwd=tmp_path, check=True)
    assert_lands_as_the_page_says(tmp_path, warehouse)


def test_the_lines_on_the_page_are_accepted(warehouse: Warehouse) -> None:
    lines = [line.strip().encode() for line in blocks("json")]
    assert len(lines) == 2
    assert warehouse.land(lines).accepted == 2
