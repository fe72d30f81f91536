"""A collector to test: in this process, called without a network, or as a real one."""

import asyncio
import functools
import json
import os
import re
import resource
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI

from ingest import settings
from ingest.collector import tokens
from ingest.collector.app import CollectorSettings, make_app
from ingest.collector.metrics import Metrics
from ingest.spool.group_commit import GroupCommit
from ingest.store.database import utc_now
from orchestration.commands import collect, terminal
from tests.support.builders import Json, Warehouse

TALLY_SECRET = "the webhook's signing secret"
LEARNER_SECRET = "what the LMS signs its learners' tokens with"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def outcomes(self) -> list[str]:
        """What became of each event, with the reason."""
        return [
            " ".join(filter(None, (each["outcome"], each.get("reason"))))
            for each in self.json["events"]
        ]


async def call_app(
    app: FastAPI,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    ends: bool = True,
) -> Answer:
    """One request; a body in parts comes without a Content-Length.

    One that does not end is waited for, as from a client that sends no more.
    """
    parts = [body] if isinstance(body, bytes) else list(body)
    named = dict(headers or {})
    if isinstance(body, bytes):
        named.setdefault("Content-Length", str(len(body)))
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in named.items()
        ],
        "server": ("collector", 80),
        "client": ("127.0.0.1", 1),
    }
    messages = [
        {
            "type": "http.request",
            "body": part,
            "more_body": number < len(parts) or not ends,
        }
        for number, part in enumerate(parts, 1)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if not messages and not ends:
            await asyncio.sleep(30)
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Answer(
        sent[0]["status"],
        {name.decode(): value.decode() for name, value in sent[0]["headers"]},
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


def lines_in(landing: Path, spool: Path) -> list[bytes]:
    files = sorted([*landing.glob("*.ndjson"), *spool.glob("*.part")])
    # What follows the last newline is being written.
    return [line for file in files for line in file.read_bytes().split(b"\n")[:-1]]


def wait_for(holds: Callable[[], bool], within_sec: float = 60) -> None:
    deadline = time.monotonic() + within_sec
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@dataclass
class Collecting:
    """A collector in this process, with what stands around it."""

    settings: CollectorSettings
    spool: GroupCommit
    app: FastAPI
    metrics: Metrics
    token: str = ""

    def make_token(self, name: str, **rights: Any) -> str:
        rights.setdefault("sources", ["web"])
        return tokens.create(self.settings.tokens, name, **rights)[1]

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return asyncio.run(call_app(self.app, method, path, body, headers))

    def post(
        self,
        body: Any,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POSTs to /v1/events; what is not bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        bearer = {"Authorization": f"Bearer {token or self.token}"}
        return self.call("POST", "/v1/events", content, {**bearer, **(headers or {})})

    def lines(self) -> list[Json]:
        """What is on disk, in the spool and in the landing zone."""
        return [json.loads(line) for line in self.raw_lines()]

    def raw_lines(self) -> list[bytes]:
        return lines_in(self.settings.landing, self.settings.spool)

    def land(self, warehouse: Warehouse) -> None:
        """Hands the file on and lands it, as the sensor's run does."""
        self.spool.close()
        files = sorted(self.settings.landing.glob("*.ndjson"))
        landing = warehouse.land_files(*files, received_at=utc_now())
        assert not landing.failures

    def metric(self, name: str) -> float:
        found = re.search(
            rf"^{re.escape(name)} (.*)$", self.metrics.text().decode(), re.MULTILINE
        )
        return float(found.group(1)) if found else 0.0


@contextmanager
def collecting(folder: Path, **settings: Any) -> Iterator[Collecting]:
    """A collector with one token that may do everything."""
    chosen = CollectorSettings(
        **{
            "spool": folder / "spool",
            "landing": folder / "landing" / "events",
            "tokens": folder / "collector" / "tokens.json",
            "register": folder / "landing" / "quiz_register.csv",
            "tally_secrets": (TALLY_SECRET,),
            "learner_secret": LEARNER_SECRET,
            **settings,
        }
    )
    metrics = Metrics()
    with GroupCommit(
        chosen.spool,
        chosen.landing,
        max_bytes=chosen.max_bytes,
        max_age_sec=chosen.max_age_sec,
        observe_sync=metrics.observe_sync,
    ) as spool:
        metrics.watch_spool(spool.state)
        app = make_app(chosen, spool, metrics)
        made = Collecting(chosen, spool, app, metrics)
        made.token = made.make_token(f"all-{uuid.uuid4().hex}", rate=1e6)
        yield made


# --- a real process ------------------------------------------------------------------


@dataclass
class Service:
    """A collector in a process of its own, with its folders below `folder`."""

    folder: Path
    process: BaseProcess
    port: int
    log: Path

    @property
    def landing(self) -> Path:
        return self.folder / "landing" / "events"

    def landed_ids(self) -> list[str]:
        """The ids of all lines that were handed on."""
        return [
            json.loads(line)["event_id"]
            for file in self.landing.glob("*.ndjson")
            for line in file.read_bytes().splitlines()
        ]

    def raw_lines(self) -> list[bytes]:
        """What is on disk, in the spool and in the landing zone."""
        return lines_in(self.landing, self.folder / "spool")

    def stop(self) -> int | None:
        self.process.terminate()
        self.process.join(30)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join(30)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        "LMS_WAREHOUSE": str(folder / "warehouse.duckdb"),
        "LMS_LANDING": str(folder / "landing"),
        "LMS_SPOOL": str(folder / "spool"),
        "LMS_COLLECTOR": str(folder / "collector"),
        "LMS_TALLY_SECRET": TALLY_SECRET,
        "LMS_LEARNER_SECRET": LEARNER_SECRET,
        **more,
    }


@functools.cache
def _context() -> ForkServerContext:
    """Processes forked from one that has imported all: 0.2 s each instead of 3."""
    context = get_context("forkserver")
    # Not this module: what forks does not find the folder of the tests.
    context.set_forkserver_preload(
        [
            *("pandas", "ingest.collector.app", "ingest.landing.event_files", "jwt"),
            *("orchestration.commands.collect", "uvloop"),
            *("uvicorn", "uvicorn.protocols.http.httptools_impl"),
        ]
    )
    return context


def _collect(
    log: Path, variables: dict[str, str], largest_file: int | None, options: Json
) -> None:
    os.environ.update(variables)
    with log.open("wb") as errors:
        os.dup2(errors.fileno(), 2)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    terminal.settings_of_this_run.set(settings.Settings.from_environment())
    collect.collect(host="127.0.0.1", port=0, **options)


@contextmanager
def service(
    folder: Path,
    *,
    max_age_sec: float = 30,
    max_mb: float = 16,
    largest_file: int | None = None,
    **more: str,
) -> Iterator[Service]:
    """A running collector; no file it writes can grow past `largest_file` bytes."""
    log = folder / "collector.log"
    log.write_bytes(b"")
    process = _context().Process(
        target=_collect,
        args=(
            log,
            environment(folder, **more),
            largest_file,
            {"max_age_sec": max_age_sec, "max_mb": max_mb},
        ),
    )
    process.start()
    try:
        yield Service(folder, process, port_of(process.is_alive, log), log)
    finally:
        if process.is_alive():
            process.kill()
        process.join(30)


def port_of(is_alive: Callable[[], bool], log: Path) -> int:
    """Where the collector listens, once it does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and is_alive():
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return int(json.loads(line)["port"])
        time.sleep(0.02)
    raise AssertionError(f"no collector: {log.read_text()}")
