"""How long after its POST a reader of the snapshot sees an event, and what rest costs.

    python -m benchmarks.latency --probes 200 --minutes 30 --idle-minutes 10

Starts a collector, Dagster's daemon and its web server in a scratch folder, as the
units in docs/systemd do and with the settings that are shipped. First nothing happens,
and what the processes use is counted. Then a learner's ping is posted every few seconds
while others post beside it, and the time is taken until `progress.v_user_progress` of
the published snapshot has the learner's row. Exits with 1 if a ping is never seen or if
a bound is missed.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import duckdb
import httpx

from benchmarks.service import WAREHOUSE, running
from serving import published

PROJECT = Path(__file__).parents[1]
_BATCH = 20
_LOOK_SEC = 0.2
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def ping(user: str, position: float) -> dict[str, object]:
    return {
        "event_id": str(uuid.uuid4()),
        "type": "VIDEO_PING",
        "schema_version": 2,
        "user_id": user,
        "class_id": "algebra",
        "course_id": "maths",
        "occurred_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "payload": {"video_id": "v7", "position_sec": position, "duration_sec": 600.0},
    }


class Sender:
    """Posts events to the collector; each is acknowledged when `post` returns."""

    def __init__(self, port: int, token: str) -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    def post(self, events: list[dict[str, object]]) -> None:
        answer = self._client.post("/v1/events", json=events).raise_for_status().json()
        if answer["accepted"] != len(events):
            raise SystemExit(f"error: not accepted: {answer}")

    def background(self, rate: float, stop: threading.Event) -> None:
        """Events of 500 learners, so many a second, until `stop` is set."""
        due = time.monotonic()
        while rate and not stop.wait(max(0.0, due - time.monotonic())):
            due += _BATCH / rate
            learner = f"learner-{random.randrange(500)}"
            self.post([ping(learner, random.random() * 600) for _ in range(_BATCH)])


class Reader:
    """Looks into what is published, again and again, for learners that are awaited."""

    def __init__(self, warehouse: Path) -> None:
        self._warehouse = warehouse
        self._posted: dict[str, float] = {}
        self._snapshot: object = None
        self.seconds: list[float] = []

    @property
    def missing(self) -> int:
        return len(self._posted)

    def expect(self, user: str) -> None:
        self._posted[user] = time.monotonic()

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(_LOOK_SEC):
            self.look()

    def look(self) -> None:
        with contextlib.suppress(OSError, duckdb.Error):
            path = published.snapshot_path(self._warehouse)
            stat = path.stat()
            if (stat.st_ino, stat.st_mtime_ns) == self._snapshot:
                return
            with contextlib.closing(duckdb.connect(str(path), read_only=True)) as found:
                rows = found.execute(
                    "select distinct user_id from progress.v_user_progress"
                    " where starts_with(user_id, 'probe-')"
                ).fetchall()
            now = time.monotonic()
            self._snapshot = (stat.st_ino, stat.st_mtime_ns)
            for (user,) in rows:
                if posted := self._posted.pop(user, None):
                    self.seconds.append(now - posted)


def scratch() -> tempfile.TemporaryDirectory[str]:
    # A killed run's own children may write to the last.
    return tempfile.TemporaryDirectory(prefix="lms-", ignore_cleanup_errors=True)


@contextlib.contextmanager
def dagster(environment: Mapping[str, str], folder: Path) -> Iterator[list[int]]:
    """Dagster's daemon and web server as the units start them; their process ids."""
    home = Path(environment["DAGSTER_HOME"])
    home.mkdir(parents=True)
    shutil.copy(PROJECT / "orchestration" / "dagster.yaml", home)
    commands = (
        ["dagster-daemon", "run"],
        ["dagster-webserver", "--host", "127.0.0.1", "--port", "0"],
    )
    processes = []
    try:
        for number, command in enumerate(commands):
            program = str(WAREHOUSE.with_name(command[0]))
            with (folder / f"{command[0]}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [program, *command[1:]],
                        cwd=PROJECT,
                        env=environment,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
            if number == 0:  # two that initialise a fresh DAGSTER_HOME race
                time.sleep(20)
        yield [process.pid for process in processes]
    finally:
        below = processes_below([process.pid for process in processes])
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in below:  # a run that is under way outlives them
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_below(roots: list[int]) -> dict[int, float]:
    """These processes and all below them, with the CPU seconds of each, and of what
    ended below it."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid = int(stat.parent.name)
            fields = stat.read_text().rpartition(")")[2].split()
            parents[pid] = int(fields[1])
            used[pid] = sum(map(int, fields[11:15])) / _TICKS_A_SECOND
    mine = set(roots)
    while more := {p for p, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {pid: used[pid] for pid in mine if pid in used}


def cpu_seconds(roots: list[int]) -> float:
    return sum(processes_below(roots).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--background", type=float, default=200, help="events a second")
    parser.add_argument("--idle-minutes", type=float, default=10)
    parser.add_argument("--median-sec", type=float, help="at most")
    parser.add_argument("--p95-sec", type=float, help="at most")
    parser.add_argument("--idle-percent", type=float, help="of one core, at most")
    options = parser.parse_args()
    bounds: list[tuple[float, float | None]] = []
    # Stopped, it stops what it has started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(scratch()))
        warehouse = folder / "warehouse.duckdb"
        environment = {
            **os.environ,
            "LMS_WAREHOUSE": str(warehouse),
            "LMS_LANDING": str(folder / "landing"),
            "LMS_SPOOL": str(folder / "spool"),
            "LMS_COLLECTOR": str(folder / "collector"),
            "LMS_OUTBOX": str(folder / "outbox"),
            "DAGSTER_HOME": str(folder / "dagster"),
            "DO_NOT_TRACK": "1",
        }
        (folder / "landing" / "catalogue").mkdir(parents=True)
        (folder / "landing" / "events").mkdir()
        (folder / "landing" / "catalogue" / "catalogue.csv").write_text(
            "class_id,course_id,title,position,has_video,has_quiz\n"
            "algebra,maths,Algebra,1,1,0\n"
        )
        port, token = stack.enter_context(
            running("collect", environment, folder / "log", "--source", "load")
        )
        roots = stack.enter_context(dagster(environment, folder))
        roots.append(collector_of(os.getpid()))
        reader, sender = Reader(warehouse), Sender(port, token)
        deadline = time.monotonic() + 300
        while reader.missing or not reader.seconds:  # the first runs of all
            if not reader.missing:
                sender.post([ping("probe-first", 1.0)])
                reader.expect("probe-first")
            reader.look()
            time.sleep(_LOOK_SEC)
            if time.monotonic() > deadline:
                log = (folder / "dagster-daemon.log").read_text()[-2000:]
                raise SystemExit(f"error: nothing is published after 5 minutes: {log}")
        first = reader.seconds.pop()
        print(f"the first event was seen after {first:.1f} s", flush=True)
        if options.idle_minutes:
            time.sleep(60)  # what was begun ends
            began, before = time.monotonic(), cpu_seconds(roots)
            time.sleep(60 * options.idle_minutes)
            used = cpu_seconds(roots) - before
            percent = 100 * used / (time.monotonic() - began)
            bounds.append((percent, options.idle_percent))
            print(
                f"at rest: {percent:.1f} % of one core over {options.idle_minutes:g} "
                "minutes (daemon, web server, collector, and what they start)",
                flush=True,
            )
        stop = threading.Event()
        threads = [
            threading.Thread(target=Sender(port, token).background, args=(rate, stop))
            for rate in [options.background]
        ]
        threads.append(threading.Thread(target=reader.watch, args=(stop,)))
        for thread in threads:
            thread.start()
        began, before = time.monotonic(), cpu_seconds(roots)
        try:
            for number in range(options.probes):
                due = began + 60 * options.minutes * (number + random.random())
                due = began + (due - began) / options.probes
                time.sleep(max(0.0, due - time.monotonic()))
                sender.post([ping(f"probe-{number}", 300.5)])
                reader.expect(f"probe-{number}")
            deadline = time.monotonic() + 180
            while reader.missing and time.monotonic() < deadline:
                time.sleep(_LOOK_SEC)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        percent = 100 * (cpu_seconds(roots) - before) / (time.monotonic() - began)
        missing, found = reader.missing, sorted(reader.seconds)
    if missing or not found:
        raise SystemExit(f"error: {missing} of {options.probes} pings were never seen")
    p95 = found[int(0.95 * (len(found) - 1))]
    bounds += [(median(found), options.median_sec), (p95, options.p95_sec)]
    print(
        json.dumps(
            {
                "seen": len(found),
                "median_sec": round(median(found), 1),
                "p95_sec": round(p95, 1),
                "min_sec": round(found[0], 1),
                "max_sec": round(found[-1], 1),
                "cpu_percent": round(percent, 1),
            }
        )
    )
    sys.exit(any(bound is not None and value > bound for value, bound in bounds))


def collector_of(parent: int) -> int:
    """The collector among the processes that this one has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
            if int(fields[1]) == parent and b"collect" in command:
                return int(stat.parent.name)
    raise SystemExit("error: the collector is gone")


if __name__ == "__main__":
    main()
