"""The collector under load for a long time, while everything around it goes wrong.

A real collector gets 3,000 events a second. In the first half nothing is restarted and
its memory is looked at; in the second it is stopped and killed in turn. Meanwhile the
disk is full now and then (no file may grow), and the clock jumps by days in both
directions. What it hands on is landed beside it. Then each acknowledged event is in the
warehouse once, and nothing is there twice or is a dead letter.
"""

import contextlib
import http.client
import json
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import duckdb

from benchmarks.service import WAREHOUSE, resident_mb
from ingest.collector import tokens
from ingest.landing import zone
from tests.support.builders import ping
from tests.support.collecting import environment, port_of
from tests.support.torture.tally import Tally

RATE = 3_000
_BATCH = 30
_SENDERS = 4
# What a process that is not restarted has at the end, over what it has had early.
MOST_GROWTH = 1.2

_FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


def load(seed: int, count: int) -> Tally:
    """For `count` seconds."""
    random = Random(seed)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="lms-torture-") as name:
        around = _Around(Path(name), random)
        with around.senders() as senders, around.landing_beside(tally):
            with around.collector() as process:
                senders.go_on(around.port)
                around.disturb(process, count / 8)
                early = resident_mb(process.pid)
                around.disturb(process, count / 2 - count / 8)
                late = resident_mb(process.pid)
                senders.pause()
                process.terminate()
                tally.check(
                    process.wait(60) == 0, "told to stop, it ended with an error"
                )
            restarts = 0
            deadline = time.monotonic() + count / 2
            while time.monotonic() < deadline:
                with around.collector() as process:
                    senders.go_on(around.port)
                    around.disturb(process, min(random.uniform(2, 15), count / 4))
                    if restarts % 2:
                        process.terminate()
                        around.check_end(process, tally)
                    else:
                        process.kill()
                    senders.pause()
                restarts += 1
        with around.collector() as process:  # hands on what a kill left behind
            process.terminate()
            around.check_end(process, tally)
        around.land(tally)
        sent = senders.acknowledged
        tally.tried = len(sent) * _BATCH
        tally.refused = senders.refused * _BATCH
        _compare(around.folder, sent, tally)
    tally.check(tally.tried > 0, "nothing was acknowledged")
    tally.check(tally.refused > 0, "nothing was refused: the disk was never full")
    tally.check(
        late <= early * MOST_GROWTH, f"memory grew from {early:.0f} to {late:.0f} MB"
    )
    tally.note(
        f"{tally.tried / count:,.0f} acknowledged a second, {restarts} restarts, "
        f"{around.full} times full, {around.jumps} jumps of the clock, memory "
        f"{early:.0f} MB after an eighth and {late:.0f} MB after half of the time"
    )
    return tally


@dataclass
class _Senders:
    """Send batches, so many a second, for as long as there is a collector."""

    token: str
    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0
    port: int = 0
    _running: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def go_on(self, port: int) -> None:
        self.port = port
        self._running.set()

    def pause(self) -> None:
        self._running.clear()

    def end(self) -> None:
        self._ended.set()
        self._running.set()

    def send(self, sender: int) -> None:
        every = _BATCH * _SENDERS / RATE
        number = 0
        while not self._ended.is_set():
            self._running.wait()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            due = time.monotonic()
            with contextlib.suppress(OSError, http.client.HTTPException):
                while self._running.is_set() and not self._ended.is_set():
                    number += 1
                    self._post(connection, f"{sender}-{number}")
                    due = max(due + every, time.monotonic() - 1)
                    time.sleep(max(0.0, due - time.monotonic()))
            connection.close()
            time.sleep(0.05)

    def _post(self, connection: http.client.HTTPConnection, batch: str) -> None:
        body = [
            ping(f"{batch}-{each}", user=f"u{batch}", position=each)
            for each in range(_BATCH)
        ]
        headers = {"Authorization": f"Bearer {self.token}"}
        connection.request("POST", "/v1/events", json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 200 and json.loads(content)["accepted"] == _BATCH:
            self.acknowledged.add(batch)
        else:
            self.refused += 1


@dataclass
class _Around:
    """The collector's folders, its disk and its clock."""

    folder: Path
    random: Random
    port: int = 0
    full: int = 0
    jumps: int = 0

    @property
    def _clock(self) -> Path:
        return self.folder / "clock"

    @contextlib.contextmanager
    def senders(self) -> Iterator[_Senders]:
        path = self.folder / "collector" / "tokens.json"
        senders = _Senders(tokens.create(path, "load", sources=["web"], rate=1e6)[1])
        threads = [
            threading.Thread(target=senders.send, args=(number,))
            for number in range(_SENDERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield senders
        finally:
            senders.end()
            for thread in threads:
                thread.join()

    @contextlib.contextmanager
    def collector(self) -> Iterator[subprocess.Popen[bytes]]:
        """The real command, with a clock that says what a file says."""
        [library] = Path("/").glob(_FAKETIME.lstrip("/"))
        self._jump(0)
        log = self.folder / "collector.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [WAREHOUSE, "collect", "--port", "0", "--max-age-sec", "2"],
                stderr=errors,
                env={
                    **os.environ,
                    **environment(self.folder),
                    "LD_PRELOAD": str(library),
                    "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                    "FAKETIME_CACHE_DURATION": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                    # With it each wait with a time limit takes all of its time.
                    "FAKETIME_FORCE_MONOTONIC_FIX": "0",
                },
            )
        try:
            self.port = port_of(lambda: process.poll() is None, log)
            yield process
        finally:
            process.kill()
            process.wait()

    def check_end(self, process: subprocess.Popen[bytes], tally: Tally) -> None:
        """Of one that was told to stop."""
        code = process.wait(60)
        log = (self.folder / "collector.log").read_text()
        tally.check(code == 0, f"told to stop, it ended with {code}: {log[-2000:]}")

    def disturb(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Lets so much time go by; meanwhile the disk is full and the clock jumps."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._jump(self.random.randint(-40 * 24, 40 * 24))
            self.jumps += 1
            time.sleep(min(left, self.random.uniform(0.2, 4)))
            # No file may grow any more: what a full disk does to who writes.
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, -1))
            time.sleep(self.random.uniform(0.3, 0.8))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
            self.full += 1

    def _jump(self, hours: int) -> None:
        self._clock.write_text(f"{hours:+d}h\n")

    @contextlib.contextmanager
    def landing_beside(self, tally: Tally) -> Iterator[None]:
        ended = threading.Event()

        def land() -> None:
            while not ended.wait(5):
                self.land(tally)

        thread = threading.Thread(target=land)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def land(self, tally: Tally) -> None:
        landed = zone.land_zone(self.folder / "landing", self._warehouse)
        tally.check(not landed.events.failures, f"not landed: {landed.events.failures}")

    @property
    def _warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"


def _compare(folder: Path, acknowledged: set[str], tally: Tally) -> None:
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        [[lost]] = warehouse.execute(
            """
            select count(*)
            from
                unnest($1::varchar[]) as batches (batch),
                range($2) as numbers (number)
            anti join raw.lms_event as event
                on event.event_id = batch || '-' || number
            """,
            [sorted(acknowledged), _BATCH],
        ).fetchall()
        [[twice, dead]] = warehouse.execute(
            """
            select
                count(*) - count(distinct event_id),
                (select count(*) from raw.dead_letter)
            from raw.lms_event
            """
        ).fetchall()
    tally.check(lost == 0, f"{lost} acknowledged events are not in the warehouse")
    tally.check(twice == 0, f"{twice} events are in the warehouse twice")
    tally.check(dead == 0, f"{dead} dead letters")
    left = [path.name for path in (folder / "spool").iterdir()]
    tally.check(left == [], f"left in the spool: {left}")
