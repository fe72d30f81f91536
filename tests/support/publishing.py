"""Signals to publish, receivers on loopback, and what each of them got."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ingest.settings import Settings
from orchestration.outbox import integration_events
from orchestration.outbox.integration_events import CONTRACTS, Fact, Format
from orchestration.outbox.receivers import parse_receivers
from orchestration.outbox.settings import PublishSettings
from tests.support.builders import Warehouse

AT = datetime(2026, 3, 10, 10)

Json = dict[str, Any]


@dataclass(frozen=True)
class Signal:
    """One row of lms_signal, of what publishing reads of it."""

    signal_id: str
    type: str = "VIDEO_COMPLETED"
    user_id: str = "u1"
    occurred_at: datetime = AT

    def row(self) -> str:
        in_class = "null" if self.type == "COURSE_COMPLETED" else "'c1'"
        course = (
            "'k1'" if self.type in ("STEP_COMPLETED", "COURSE_COMPLETED") else "null"
        )
        return (
            f"('{self.signal_id}', '{self.type}', '{self.user_id}', {in_class}, "
            f"{course}, timestamp '{self.occurred_at}')"
        )


def derive(warehouse: Warehouse, signals: Sequence[Signal]) -> None:
    """What a refresh leaves: these signals and no others."""
    warehouse.execute(as_tables(signals))


def as_tables(signals: Sequence[Signal]) -> str:
    rows = ", ".join(signal.row() for signal in signals)
    return (
        "create schema if not exists signals; drop schema if exists signals cascade; "
        "create schema signals; create table "
        "signals.lms_signal (signal_id varchar, type varchar, user_id varchar, "
        "class_id varchar, course_id varchar, occurred_at timestamp);"
        "create table signals.signal_rule as "
        "select 'VIDEO_COMPLETED' as type, 0.9::double as completion_threshold;"
        + (f"insert into signals.lms_signal values {rows}" if rows else "")
    )


def signals(count: int, first: int = 0) -> list[Signal]:
    """So many signals of three learners, one a second."""
    return [
        Signal(
            f"s{number:04}",
            user_id=f"u{number % 3}",
            occurred_at=AT + timedelta(seconds=number),
        )
        for number in range(first, first + count)
    ]


def to(warehouse: Warehouse, *urls: str, xapi: str = "", **how: Any) -> PublishSettings:
    """Publishing to these URLs, in batches of 5, giving up soon."""
    defaults = replace(
        PublishSettings.of(Settings.from_environment({})),
        folder=warehouse.folder / "outbox",
        receivers={
            "cloudevents": parse_receivers(" ".join(urls), "LMS_PUBLISH_URL"),
            "xapi": parse_receivers(xapi, "LMS_XAPI_URL"),
        },
        batch_events=5,
        timeout_sec=2,
        give_up_sec=0,
    )
    return replace(defaults, **how)


def files(
    warehouse: Warehouse, event_format: Format = "cloudevents"
) -> dict[str, list[Json]]:
    """The name of each file, and what its lines hold."""
    return {
        file.name: [json.loads(line) for line in file.read_bytes().splitlines()]
        for file in sorted((warehouse.folder / "outbox" / event_format).iterdir())
    }


def published(warehouse: Warehouse) -> list[Json]:
    return [event for file in files(warehouse).values() for event in file]


def ids(events: Sequence[Json]) -> list[str]:
    return [event["id"] for event in events]


def id_of(signal_id: str) -> str:
    return str(integration_events.event_id(signal_id))


@dataclass(frozen=True)
class Answer:
    """How a receiver takes one request; `stores` is whether it keeps the batch."""

    status: int = 202
    headers: Json = field(default_factory=dict)
    body: bytes = b""
    stores: bool = True
    after: threading.Event | None = None
    drips: bool = False


@dataclass(frozen=True)
class Request:
    path: str
    headers: Message
    body: bytes

    @property
    def events(self) -> list[Json]:
        return list(json.loads(self.body))


class Receiver:
    """A real one: it answers as it is told, and then with 202."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.stored: list[Json] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                body = self.rfile.read(size)
                if len(body) < size:
                    return  # the sender was killed
                request = Request(self.path, self.headers, body)
                with receiver._lock:
                    answers = receiver.answers
                    answer = answers.pop(0) if answers else Answer()
                    receiver.requests.append(request)
                    if answer.stores:
                        receiver.stored += request.events
                with suppress(OSError):
                    self._reply(answer)

            def _reply(self, answer: Answer) -> None:
                while answer.after and not answer.after.wait(0.05):
                    if answer.drips:
                        self.wfile.write(b"H")
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/events"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def distinct(self) -> list[str]:
        """The ids in the order in which each was stored first."""
        return list(dict.fromkeys(ids(self.stored)))


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# What was published once, in the words of that day. These files are never edited.
GOLDEN_FACTS = [
    Fact(
        sequence=number,
        signal_id=f"{number:032x}",
        signal_type=contract.SIGNAL,
        contract_version=contract.VERSION,
        user_id='Ana "50%" <ana@example.org>\n🎓',
        class_id=None if contract.SIGNAL == "COURSE_COMPLETED" else "intro/1 é",
        course_id="k 1"
        if contract.SIGNAL in ("STEP_COMPLETED", "COURSE_COMPLETED")
        else None,
        occurred_at=datetime(2026, 10, 2, 11, 7, 5, 729_000),
        enqueued_at=datetime(2026, 10, 2, 11, 10),
        base_url="https://lms.example",
        completion_threshold=0.9,
    )
    for number, contract in enumerate(CONTRACTS, start=1)
]
