"""The collector: events and Tally's webhooks over HTTP, on disk before a 2xx.

It writes files into the landing zone and nothing else; it never opens the warehouse.
docs/collector.md says how it is run and what it promises.
"""

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from ingest import settings
from ingest.collector import request_body, tokens
from ingest.collector.answers import (
    Refused,
    answer_errors,
    as_json,
    bearer,
    learner_in,
)
from ingest.collector.limits import Limits
from ingest.collector.metrics import Metrics, Observed, note
from ingest.collector.openapi import (
    OPENAPI_TALLY,
    describe,
    events_operation,
    ok_operation,
)
from ingest.collector.request_body import MOST_EVENTS
from ingest.collector.tokens import Token
from ingest.collector.watched_file import WatchedFile
from ingest.contracts import validation
from ingest.contracts.events import LARGEST_LINE_BYTES, contracts
from ingest.contracts.validation import Event, Rejection
from ingest.landing import lines, quiz_register, tally
from ingest.landing.quiz_register import QuizRegister
from ingest.spool.group_commit import GroupCommit
from ingest.spool.writer import SpoolError
from ingest.store.database import utc_now

SLOWEST_COMMIT_SEC = 8  # Tally gives up after 10
RETRY_AFTER_SEC = 5

# What one learner's browser may send: a ping every 10 s is 0.1 a second, an offline
# queue comes at once.
LEARNER_RATE = 20.0
LEARNER_BURST = 2000.0

# So many webhooks are remembered, to answer a repeated one without writing it again.
REMEMBERED_WEBHOOKS = 10_000


@dataclass(frozen=True)
class CollectorSettings:
    """Where the collector finds and puts things, and the secrets that it checks with.

    `tally_secrets` are the webhooks' signing secrets, several while one is replaced;
    `learner_secret` is what the LMS signs learner tokens with.
    """

    spool: Path
    landing: Path
    tokens: Path
    register: Path
    origins: tuple[str, ...] = ()
    tally_secrets: tuple[str, ...] = field(default=(), repr=False)
    learner_secret: str | None = field(default=None, repr=False)
    max_bytes: int = 16 * 1024 * 1024
    max_age_sec: float = 5


def settings_of(
    environment: settings.Settings,
    *,
    max_bytes: int = 16 * 1024 * 1024,
    max_age_sec: float = 5,
) -> CollectorSettings:
    """Raises `WarehouseError` for a secret that is too short to be one."""
    return CollectorSettings(
        spool=environment.spools[0],
        landing=environment.landing / "events",
        tokens=environment.tokens,
        register=environment.quiz_register,
        origins=environment.cors_origins,
        tally_secrets=environment.tally_secrets,
        learner_secret=tokens.checked_secret(environment.learner_secret),
        max_bytes=max_bytes,
        max_age_sec=max_age_sec,
    )


# --- one event -----------------------------------------------------------------------


@dataclass(frozen=True)
class Grant:
    """What a request may write: its token's rights and, with one, its learner's."""

    token: Token
    learner: str | None = None

    def covers(self, user_id: object, event_type: object) -> bool:
        if self.learner is not None and user_id != self.learner:
            return False
        return not self.token.types or event_type in self.token.types


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer about one event.

    `accepted` and `rejected` are on disk, the second to become a dead letter with
    `reason`; `refused` was not kept, because it was not allowed.
    """

    event_id: str | None
    outcome: str
    reason: str = ""
    field: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Classified:
    """The answer, and the line for the spool, if there is to be one."""

    verdict: Verdict
    line: bytes | None


def classify(raw: bytes, grant: Grant) -> Classified:
    """What becomes of one event, by the contracts and by what the request may write.

    A rejected line may be read one day (a contract is added, a dead letter retried), so
    it has to be within the rights too: else it is refused and not kept.
    """
    # Within JSON a line break is only ever space.
    line = raw.replace(b"\n", b" ").replace(b"\r", b" ")
    stamped = _with_source(line, grant.token.sources)
    if isinstance(stamped, Rejection):
        return _refused(_id_in(_plain_object(line.decode(errors="replace"))), stamped)
    line = stamped
    bad = lines.bad_line(line)
    if bad:
        if grant.learner is not None or grant.token.types:
            return _refused(None, bad.rejection)
        return Classified(_verdict("rejected", None, bad.rejection), line)
    text = line.decode()
    result = validation.examine(text, utc_now())
    if isinstance(result, Event):
        if grant.covers(result.user_id, result.type):
            return Classified(Verdict(result.event_id, "accepted"), line)
        return _refused(result.event_id, _not_allowed(grant))
    value = _plain_object(text)
    # Landing would believe it to be Tally's; here nobody has signed it.
    if tally.is_submission(text) or not (
        grant.covers(value.get("user_id"), value.get("type"))
    ):
        return _refused(_id_in(value), _not_allowed(grant))
    return Classified(_verdict("rejected", _id_in(value), result), line)


def _with_source(line: bytes, sources: Sequence[str]) -> bytes | Rejection:
    """The line with a `source`: its own, if the token may write for it, or the first.

    A second `source`, spelled with escapes, makes the line a broken one.
    """
    if b'"source"' in line:
        value = _plain_object(line.decode(errors="replace"))
        if "source" in value:
            if value["source"] in sources:
                return line
            detail = f"this token may write for {', '.join(sources)}"
            return Rejection("not_allowed", "source", detail)
    if not line.startswith(b"{"):
        return line
    rest = line[1:].lstrip(b" \t")
    comma = b"" if rest.startswith(b"}") else b","
    return b'{"source":"' + sources[0].encode() + b'"' + comma + rest


def _plain_object(text: str) -> dict[str, Any]:
    """The object, or an empty one for what is none that every reader reads the same."""
    try:
        value = validation.parse_json(text)
    except ValueError:
        return {}
    return value if type(value) is dict else {}


def _id_in(value: dict[str, Any]) -> str | None:
    event_id = value.get("event_id")
    return event_id if isinstance(event_id, str) else None


def _not_allowed(grant: Grant) -> Rejection:
    whose = "" if grant.learner is None else "its own learner and "
    types = ", ".join(grant.token.types) or "events of a contract"
    return Rejection("not_allowed", None, f"may write for {whose}{types} only")


def _refused(event_id: str | None, rejection: Rejection) -> Classified:
    return Classified(_verdict("refused", event_id, rejection), None)


def _verdict(outcome: str, event_id: str | None, rejection: Rejection) -> Verdict:
    return Verdict(
        event_id, outcome, rejection.reason, rejection.field, rejection.detail
    )


# --- the service ---------------------------------------------------------------------


class Collector:
    """Answers requests. Made on a spool that someone else closes."""

    def __init__(
        self, settings: CollectorSettings, spool: GroupCommit, metrics: Metrics
    ) -> None:
        """Raises `WarehouseError` when the tokens or the register cannot be read."""
        self._settings = settings
        self._spool = spool
        self._metrics = metrics
        self._tokens = WatchedFile(settings.tokens, tokens.read)
        self._register = WatchedFile(settings.register, quiz_register.read)
        self._limits = Limits()
        self._seen: OrderedDict[bytes, Verdict] = OrderedDict()
        contracts()  # or else the first request waits 0.1 s for them

    async def events(self, request: Request) -> Response:
        header = bearer(request)
        token = None if header is None else self._token(header)
        body = await request_body.read(request)
        encoding = request.headers.get("content-encoding", "")
        batch = await request_body.batch_of(body, encoding)
        if token is None:
            token = self._token(batch.token)
        if not token.sources:
            raise Refused(403, "this token may read, and send nothing")
        note(request, producer=token.name)
        learner_token = request.headers.get("learner-token") or batch.learner_token
        grant = Grant(token, self._learner(token, learner_token))
        self._limit(grant, max(1, len(batch.events)))
        # Beside the event loop: 1 MiB of events is some 0.1 s of work.
        classified = await asyncio.to_thread(
            lambda: [classify(raw, grant) for raw in batch.events]
        )
        kept = [each.line for each in classified if each.line is not None]
        answer = self._answer(request, [each.verdict for each in classified])
        # Nothing can fail after the write: who was told of an error would send again.
        await self._write(b"".join(line + b"\n" for line in kept))
        return answer

    async def tally(self, request: Request) -> Response:
        secrets = self._settings.tally_secrets
        if not secrets:
            raise Refused(503, "no signing secret is set here (LMS_TALLY_SECRET)")
        signature = request.headers.get("tally-signature", "")
        body = await request_body.read(request)
        if not tally.is_signed(body, signature, secrets):
            raise Refused(401, "Tally-Signature: missing or wrong")
        key = tally.signature_of(body, secrets[0])
        if known := self._seen.get(key):
            return self._answer_one(request, known, "repeated")
        try:
            line = await asyncio.to_thread(tally.line_of, body, self._register.value())
        except tally.NotASubmission as error:
            raise Refused(422, f"no form's response: {error}") from None
        if len(line) > LARGEST_LINE_BYTES:
            # Numbers may be spelled longer than they came. The score counts most.
            line = tally.line_of(body, QuizRegister())
        if len(line) > LARGEST_LINE_BYTES:
            raise Refused(413, "the submission is too large for a line")
        verdict = await asyncio.to_thread(self._mapped, line.decode())
        answer = self._answer_one(request, verdict, verdict.outcome)
        await self._write(line + b"\n")
        self._seen[key] = verdict
        if len(self._seen) > REMEMBERED_WEBHOOKS:
            self._seen.popitem(last=False)
        return answer

    def _mapped(self, line: str) -> Verdict:
        """What landing will make of the submission, if the register stays as it is."""
        event_id = str(validation.parse_json(line)["event_id"])
        event = tally.event_of(line, self._register.value())
        if isinstance(event, str):
            result = validation.examine(event, utc_now())
            if isinstance(result, Event):
                return Verdict(event_id, "accepted")
            event = result
        return _verdict("rejected", event_id, event)

    async def health(self, _request: Request) -> Response:
        return as_json({"status": "alive"})

    async def ready(self, _request: Request) -> Response:
        """A spool that refused is tried: no events come while this says 503."""
        self._tokens.value()
        self._register.value()
        problems = [file.error for file in (self._tokens, self._register) if file.error]
        state = self._spool.state()
        if not state.is_writing:
            problems.append("the spool's writer has ended; start the collector again")
        elif state.error:
            try:
                await asyncio.to_thread(self._spool.probe)
            except OSError as error:
                problems.append(f"{self._settings.spool}: {error.strerror or error}")
        if problems:
            return as_json({"status": "not ready", "problems": problems}, status=503)
        return as_json({"status": "ready"})

    async def metrics(self, _request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    def _token(self, text: str | None) -> Token:
        token = self._tokens.value().find(text) if text else None
        if token is None:
            raise Refused(401, "no bearer token, or not one that is active")
        return token

    def _learner(self, token: Token, text: str | None) -> str | None:
        return learner_in(token, text, self._settings.learner_secret)

    def _limit(self, grant: Grant, count: int) -> None:
        token = grant.token
        burst = max(2 * token.rate, float(MOST_EVENTS))
        wait = self._limits.take((token.sha256,), count, rate=token.rate, burst=burst)
        if not wait and grant.learner is not None:
            wait = self._limits.take(
                (token.sha256, grant.learner),
                count,
                rate=LEARNER_RATE,
                burst=LEARNER_BURST,
            )
        if wait:
            raise Refused(429, "too many events", max(1, math.ceil(wait)))

    async def _write(self, data: bytes) -> None:
        """Returns when all of it is on disk. Raises `Refused` when it is not."""
        if not data:
            return
        try:
            await asyncio.wait_for(self._spool.put(data), SLOWEST_COMMIT_SEC)
        except TimeoutError:
            # It may get to the disk still: sent again, it is a duplicate.
            raise Refused(503, "the disk does not answer", RETRY_AFTER_SEC) from None
        except SpoolError as error:
            raise Refused(503, f"not kept: {error}", RETRY_AFTER_SEC) from None

    def _answer(self, request: Request, verdicts: Sequence[Verdict]) -> Response:
        counts = Counter((verdict.outcome, verdict.reason) for verdict in verdicts)
        self._metrics.count_events(counts)
        outcomes = Counter(verdict.outcome for verdict in verdicts)
        note(request, **outcomes, reasons=sorted({r for _, r in counts if r}))
        answer = {
            **{name: outcomes[name] for name in ("accepted", "rejected", "refused")},
            "events": verdicts,
        }
        all_refused = bool(verdicts) and outcomes["refused"] == len(verdicts)
        return as_json(answer, status=403 if all_refused else 200)

    def _answer_one(
        self, request: Request, verdict: Verdict, counted_as: str
    ) -> Response:
        self._metrics.count_events({(counted_as, verdict.reason): 1})
        note(request, producer="tally", **{counted_as: 1}, reasons=[verdict.reason])
        return as_json(verdict)


def make_app(
    settings: CollectorSettings, spool: GroupCommit, metrics: Metrics
) -> FastAPI:
    """The ASGI application. Raises `WarehouseError`."""
    collector = Collector(settings, spool, metrics)
    app = FastAPIOffline(
        title="LMS event collector",
        version="1",
        description="Events of players and quiz forms. A 2xx means: on disk.",
        redoc_url=None,
    )
    post, get = ["POST"], ["GET"]
    for path, endpoint, methods, operation in (
        ("/v1/events", collector.events, post, events_operation()),
        ("/v1/tally", collector.tally, post, OPENAPI_TALLY),
        ("/health", collector.health, get, ok_operation("The process is alive.")),
        ("/ready", collector.ready, get, ok_operation("It takes events.", 503)),
        ("/metrics", collector.metrics, get, ok_operation("For Prometheus.")),
    ):
        app.add_api_route(
            path,
            endpoint,
            methods=methods,
            response_class=Response,
            openapi_extra=operation,
        )
    answer_errors(app)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["POST"],
            allow_headers=[
                *("Authorization", "Content-Type", "Content-Encoding"),
                "Learner-Token",
            ],
            # A page whose clock is wrong takes the time from `Date`.
            expose_headers=["Retry-After", "Date"],
            max_age=600,
        )
    app.add_middleware(Observed, metrics=metrics)
    describe(app)
    return app
