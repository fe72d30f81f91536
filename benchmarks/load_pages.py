"""How long the dashboard's pages take on 50 million events, while refreshes run.

    python -m benchmarks.load_pages --events 50M

Starts a real dashboard on the history of benchmarks/kept_history.py and opens its pages
as a browser does: a WebSocket of its own for each visit, from the connection to the
message that the page is complete, with courses, videos and learners chosen at random.
What a browser takes to draw it is not in it. The dashboard is visited by one person; by
one while 100,000 new events are landed and refreshed again and again; and by ten people
at once, meanwhile too, each of whom looks at a page for some seconds. Exits with 1 if a
page misses its bound.
"""

import argparse
import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import duckdb
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect

from benchmarks.kept_history import KeptHistory, kept
from benchmarks.service import WAREHOUSE, cpu_seconds, peak_mb

# Milliseconds that 95 of 100 visits may take at most.
BOUND_MS = 500
BOUNDS_MS = {"learner": 300}
PEAK_MB = 1000
MANY_TIMES = 3


@dataclass(frozen=True)
class Known:
    """What addresses may name."""

    courses: Sequence[str]
    classes: Sequence[str]
    learners: Sequence[str]

    @classmethod
    def of(cls, snapshot: Path) -> "Known":
        with duckdb.connect(str(snapshot.resolve()), read_only=True) as connection:

            def column(sql: str) -> list[str]:
                return [value for (value,) in connection.execute(sql).fetchall()]

            return cls(
                column("select distinct course_id from catalogue.catalogue_class"),
                column("select class_id from analytics.v_video_engagement group by 1"),
                column("select user_id from monitoring.v_user_activity"),
            )

    def visit(self, page: str, choose: random.Random) -> dict[str, str]:
        """What the address of a page of `PAGES` chooses."""
        course, class_id = choose.choice(self.courses), choose.choice(self.classes)
        learner = choose.choice(self.learners)
        return {
            "overview of a course": {"course": course},
            "course": {"course": course},
            "video": {"class_id": class_id},
            "quiz of a course": {"course": course},
            "needs help in a course": {"course": course},
            "learner": {"user": learner},
            "events of a learner": {"user": learner},
            "events of a video": {"class_id": class_id, "type": "VIDEO_PING"},
        }.get(page, {})


# The name of each kind of visit, and the path of the page.
PAGES = {
    "overview": "",
    "overview of a course": "",
    "course": "course",
    "videos": "video",
    "video": "video",
    "quiz": "quiz",
    "quiz of a course": "quiz",
    "needs help": "needs_help",
    "needs help in a course": "needs_help",
    "learner": "learner",
    "data health": "data_health",
    "events of a learner": "events",
    "events of a video": "events",
}


@dataclass
class Visits:
    """How long each visit took, in ms, by page; and the CPU ms of one person's."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def percentile(self, page: str, share: float) -> float:
        took = sorted(self.took[page])
        return took[max(round(share * len(took)) - 1, 0)]


@dataclass(frozen=True)
class Dashboard:
    """One that runs, and what there is to be seen on it."""

    port: int
    pid: int
    known: Known

    async def visit(self, page: str, choose: random.Random) -> float:
        """The milliseconds that it took. Raises `RuntimeError` for a page that shows an
        error, or nothing."""
        query = urlencode(self.known.visit(page, choose))
        message = BackMsg()
        message.rerun_script.query_string = query
        message.rerun_script.page_name = PAGES[page]
        began = time.perf_counter()
        text = ""
        async with connect(
            f"ws://127.0.0.1:{self.port}/_stcore/stream",
            subprotocols=["streamlit"],  # type: ignore[list-item]
            max_size=None,
            compression=None,
        ) as connection:
            await connection.send(message.SerializeToString())
            while True:
                answer = ForwardMsg.FromString(await connection.recv(decode=False))
                kind = answer.WhichOneof("type")
                if kind == "script_finished":
                    # Run again for a snapshot that was published meanwhile: not yet.
                    if answer.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                        took = 1000 * (time.perf_counter() - began)
                        break
                    text = ""
                element = answer.delta.new_element
                if element.WhichOneof("type") == "exception":
                    raise RuntimeError(f"{page}?{query}: {element.exception.message}")
                if element.WhichOneof("type") == "alert":
                    text += element.alert.body
                text += element.markdown.body
        if (
            "As of load" not in text
            or answer.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY
        ):
            raise RuntimeError(f"{page}?{query}: {text or 'nothing is shown'}")
        return took

    async def visits_of_one(self, count: int, seed: int) -> Visits:
        """Each page so many times, one visit after the other."""
        visits, choose = Visits(), random.Random(seed)
        for _ in range(count):
            for page in PAGES:
                began = cpu_seconds(self.pid)
                visits.took[page].append(await self.visit(page, choose))
                visits.cpu[page].append(1000 * (cpu_seconds(self.pid) - began))
        return visits

    async def visits_of_many(
        self, count: int, people: int, looks_sec: float, seed: int
    ) -> Visits:
        """The same by several people, who look at each page for so long on average."""
        visits = Visits()

        async def person(number: int) -> None:
            choose = random.Random(seed + number)
            left = [page for page in PAGES for _ in range(max(count // people, 1))]
            choose.shuffle(left)
            for page in left:
                await asyncio.sleep(choose.uniform(0, 2 * looks_sec))
                visits.took[page].append(await self.visit(page, choose))

        await asyncio.gather(*(person(number) for number in range(people)))
        return visits


@contextlib.contextmanager
def dashboard(history: KeptHistory, log: Path) -> Iterator[Dashboard]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            [WAREHOUSE, "dashboard", "--port", str(port)],
            cwd=history.folder,
            env=history.environment,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: no dashboard: {log.read_text()}")
            time.sleep(0.1)
        snapshot = history.folder / "published" / history.warehouse.name
        yield Dashboard(port, process.pid, Known.of(snapshot))
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def refreshing(history: KeptHistory) -> Iterator[list[float]]:
    """Lands and refreshes new events until the block ends; the seconds of each."""
    seconds: list[float] = []
    is_over = threading.Event()
    failures: list[BaseException] = []

    def refresh() -> None:
        try:
            while not is_over.is_set():
                history.land_new_events()
                began = time.perf_counter()
                history.command("refresh")
                seconds.append(time.perf_counter() - began)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=refresh)
    thread.start()
    try:
        yield seconds
    finally:
        is_over.set()
        thread.join()
    if failures:
        raise failures[0]


def print_visits(title: str, visits: Visits) -> None:
    print(f"\n{title}\n\n| page | visits | p50 ms | p95 ms | at most | CPU ms |")
    print("|---|--:|--:|--:|--:|--:|")
    for page, took in visits.took.items():
        cpu = visits.cpu.get(page)
        print(
            f"| {page} | {len(took)} | {visits.percentile(page, 0.5):.0f} | "
            f"{visits.percentile(page, 0.95):.0f} | {max(took):.0f} | "
            + (f"{sum(cpu) / len(cpu):.0f} |" if cpu else "|"),
            flush=True,
        )


def missed(visits: Visits, times: float = 1) -> list[str]:
    found = []
    for page in visits.took:
        bound = times * BOUNDS_MS.get(page, BOUND_MS)
        if visits.percentile(page, 0.95) > bound:
            found.append(
                f"{page}: p95 {visits.percentile(page, 0.95):.0f} ms, not {bound:.0f}"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", default="50M")
    parser.add_argument("--visits", type=int, default=20, help="of each page")
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--looks-sec", type=float, default=5, help="at each page")
    options = parser.parse_args()
    history = kept(options.events)
    history.make()
    failed: list[str] = []
    with dashboard(history, history.folder / "dashboard.log") as shown:
        asyncio.run(shown.visits_of_one(1, seed=0))  # warm
        alone = asyncio.run(shown.visits_of_one(options.visits, seed=1))
        print_visits("One person", alone)
        with refreshing(history) as refreshes:
            one = asyncio.run(shown.visits_of_one(options.visits, seed=2))
        print_visits(f"One person, while {len(refreshes)} refreshes run", one)
        with refreshing(history) as refreshes:
            many = asyncio.run(
                shown.visits_of_many(
                    options.visits, options.people, options.looks_sec, seed=3
                )
            )
        print_visits(
            f"{options.people} people, {options.looks_sec:g} s at a page, while "
            f"{len(refreshes)} refreshes run",
            many,
        )
        peak = peak_mb(shown.pid)
    print(f"\nthe dashboard took {peak:,.0f} MB at most")
    failed += missed(one)
    failed += [
        f"{page}: {many.percentile(page, 0.95) / one.percentile(page, 0.95):.1f} times "
        f"as long for {options.people} people, not {MANY_TIMES}"
        for page in PAGES
        if many.percentile(page, 0.95) > MANY_TIMES * one.percentile(page, 0.95)
    ]
    if peak > PEAK_MB:
        failed.append(f"{peak:,.0f} MB, not {PEAK_MB}")
    for each in failed:
        print(f"missed: {each}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
