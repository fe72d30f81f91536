"""What a service over HTTP tells of itself: metrics, and a log without learners.

Log lines and metrics name paths, outcomes, reasons and producers; never an event, a
body, a query string or an address.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest.spool.group_commit import SpoolState

PATHS = ("/v1/events", "/v1/tally", "/health", "/ready", "/metrics", "/docs")

_REQUEST_SEC = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_SYNC_SEC = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)

log = structlog.get_logger("collector")


class RequestMetrics:
    """What a service tells of its requests, in a registry of its own; the names of its
    metrics begin with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            f"{prefix}_requests",
            "Requests answered.",
            ["path", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{prefix}_request_seconds",
            "From the first byte to the answer.",
            ["path"],
            buckets=_REQUEST_SEC,
            registry=self.registry,
        )

    def count_request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Metrics(RequestMetrics):
    """The collector's."""

    def __init__(self) -> None:
        super().__init__("collector")
        self._events = Counter(
            "collector_events",
            "Events by what became of them.",
            ["outcome", "reason"],
            registry=self.registry,
        )
        self._syncs = Histogram(
            "collector_fsync_seconds",
            "Writing a group of requests and syncing it.",
            buckets=_SYNC_SEC,
            registry=self.registry,
        )

    def observe_sync(self, seconds: float) -> None:
        self._syncs.observe(seconds)

    def count_events(self, counts: Mapping[tuple[str, str], int]) -> None:
        for (outcome, reason), count in counts.items():
            self._events.labels(outcome, reason).inc(count)

    def watch_spool(self, state: Callable[[], SpoolState]) -> None:
        self.registry.register(_SpoolGauges(state))


class _SpoolGauges:
    def __init__(self, state: Callable[[], SpoolState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        for name, meaning, value in (
            ("file_bytes", "On disk, not in the landing zone yet.", state.file_bytes),
            ("age_seconds", "Age of the open file, 0 without.", state.file_age_sec),
            ("waiting_bytes", "Taken, not on disk yet.", state.waiting_bytes),
            ("refused", "1 after the disk refused.", int(state.error is not None)),
        ):
            yield GaugeMetricFamily(f"collector_spool_{name}", meaning, value=value)


def note(request: Request, **facts: Any) -> None:
    """Adds to the log line of the request."""
    request.scope.setdefault("collector.facts", {}).update(facts)


def _collectors_path(scope: Scope) -> str:
    return scope["path"] if scope["path"] in PATHS else "other"


class Observed:
    """ASGI middleware: one log line and the metrics of each request.

    `path_of` says under which path a request is counted, once it was answered.

    An error of ours is answered with 500 and logged by its type and place alone: its
    text may have a learner's data.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: RequestMetrics,
        path_of: Callable[[Scope], str] = _collectors_path,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._path_of = path_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        facts: dict[str, Any] = scope.setdefault("collector.facts", {})
        try:
            await self._app(scope, receive, observed_send)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            facts["error"] = type(error).__name__
            facts["at"] = [f"{f.filename}:{f.lineno}" for f in frames]
            if not status:
                answer = Response(
                    b'{"error":"internal error"}', 500, media_type="application/json"
                )
                await answer(scope, receive, observed_send)
        seconds = time.perf_counter() - started
        path = self._path_of(scope)
        self._metrics.count_request(path, status, seconds)
        # Probes come every few seconds and say nothing when they are well.
        write = log.debug if scope["method"] == "GET" and status < 400 else log.info
        if "error" in facts:
            write = log.error
        write(
            "request",
            method=scope["method"] if path != "other" else "other",
            path=path,
            status=status,
            milliseconds=round(seconds * 1000, 1),
            **facts,
        )


def set_up_logs(level: int = logging.INFO) -> None:
    """JSON lines on standard error, those of uvicorn and of the spool too."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # A traceback of the server's may name what a request held.
                _without_traceback,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def _without_traceback(
    _logger: Any, _name: str, facts: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for name in ("exc_info", "exception", "stack_info"):
        facts.pop(name, None)
    return facts
