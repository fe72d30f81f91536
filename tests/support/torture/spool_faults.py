"""The spool on a disk that fails: what was acknowledged is there, whole, once.

The collector's writer and the producers', each in a process of its own that puts lines
until it is through or the power goes, and notes outside the disk which were
acknowledged. What the next writer finds in the spool it hands on to the landing zone.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from ingest.contracts.events import VideoPingV2
from ingest.spool.group_commit import GroupCommit
from ingest.spool.writer import SpoolError, SpoolWriter, new_event
from tests.support.disk import Fault
from tests.support.torture.commands import Place, place
from tests.support.torture.tally import Tally, chosen

LINES = 30
# A file is full after a few lines: files are handed on all the time.
FULL_BYTES = 400


def collect(disk: Path, acknowledged: Path) -> None:
    """As the collector does: each group is waited for."""

    async def put_all() -> None:
        with (
            contextlib.suppress(SpoolError),
            GroupCommit(
                disk / "spool", disk / "landing", max_bytes=FULL_BYTES
            ) as spool,
        ):
            for number in range(LINES):
                line = b'{"event_id": "%d", "filler": "%s"}\n' % (number, b"x" * 50)
                with contextlib.suppress(SpoolError):
                    await spool.put(line)
                    _note(acknowledged, number)

    asyncio.run(put_all())


def produce(disk: Path, acknowledged: Path) -> None:
    """As a producer does: it puts two, and waits for both; it ends when it is told that
    they are not on disk."""
    payload = VideoPingV2(video_id="v1", position_sec=1, duration_sec=2)
    with (
        contextlib.suppress(SpoolError, OSError),
        SpoolWriter(disk / "spool", disk / "landing", max_bytes=FULL_BYTES) as spool,
    ):
        for number in range(0, LINES, 2):
            for each in (number, number + 1):
                spool.put(
                    new_event(
                        payload,
                        user_id="u1",
                        class_id="c1",
                        occurred_at=datetime.now(UTC),
                        event_id=str(each),
                    )
                )
            # Longer than the second after which a write is tried again.
            spool.flush(timeout_sec=2)
            _note(acknowledged, number)
            _note(acknowledged, number + 1)


WRITERS: tuple[Callable[[Path, Path], None], ...] = (collect, produce)


def recover(disk: Path) -> None:
    """As whoever writes next to the spool does."""
    with GroupCommit(disk / "spool", disk / "landing"):
        pass


def _note(path: Path, number: int) -> None:
    with path.open("a") as file:
        file.write(f"{number}\n")


def _run(
    at: Place, write: Callable[[Path, Path], None], fault: Fault | None
) -> list[str]:
    """Starts anew and writes; the ids that were acknowledged."""
    acknowledged = at.folder_for("acknowledged") / "ids"
    acknowledged.touch()
    at.disk.load(at.folder_for("empty"))
    at.disk.arm(fault)
    at.run_alone(write, at.disk.folder, acknowledged)
    return acknowledged.read_text().split()


def _look(at: Place, acknowledged: list[str], what: str, tally: Tally) -> None:
    at.run_alone(recover, at.disk.folder)
    found: list[str] = []
    for file in (at.disk.folder / "landing").glob("*.ndjson"):
        for line in file.read_bytes().splitlines():
            try:
                found.append(json.loads(line)["event_id"])
            except ValueError:
                tally.check(
                    False, f"{what}: {file.name} has a torn line: {line[:80]!r}"
                )
    missing = {*acknowledged} - {*found}
    tally.check(not missing, f"{what}: acknowledged, and lost: {sorted(missing)}")
    tally.check(
        not list((at.disk.folder / "spool").glob("*.part")),
        f"{what}: a file is left in the spool",
    )


def calls(seed: int, count: int) -> Tally:
    """Of each writer's calls `count` fail, once and for good; all if it has fewer."""
    tally = Tally()
    random = Random(seed)
    with place() as at:
        for write in WRITERS:
            whole = _run(at, write, None)
            total = len(at.disk.calls())
            assert len(whole) == LINES
            for number in chosen(total, count, random):
                for fault in (
                    Fault(number, "eio"),
                    Fault(number, "short"),
                    Fault(number, "enospc", lasting=True),
                ):
                    acknowledged = _run(at, write, fault)
                    at.disk.arm()
                    tally.tried += 1
                    tally.refused += len(acknowledged) < LINES
                    what = f"{write.__name__}: {fault.kind} at call {number}"
                    _look(at, acknowledged, what, tally)
            tally.note(f"{write.__name__}: {min(count, total)} of {total} calls")
    return tally


def power(seed: int, count: int, *, strict: bool = False) -> Tally:
    """The power goes `count` times while each writes, at a random call."""
    tally = Tally()
    random = Random(seed)
    with place(strict=strict) as at:
        for write in WRITERS:
            _run(at, write, None)
            total = len(at.disk.calls())
            acknowledged_at_all = 0
            for _ in range(count):
                number, cut_seed = random.randint(1, total), random.randrange(2**32)
                acknowledged = _run(at, write, Fault(number, "cut"))
                left = at.folder_for("left")
                at.disk.survive(left, cut_seed)
                at.disk.load(left)
                tally.tried += 1
                acknowledged_at_all += len(acknowledged)
                what = f"{write.__name__}: cut at call {number} (seed {cut_seed})"
                _look(at, acknowledged, what, tally)
            tally.note(
                f"{write.__name__}: {count} cuts, {acknowledged_at_all:,} acknowledged"
            )
    return tally
