"""The service: who may read what, and each answer with the snapshot that it is of."""

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

import duckdb
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import Scope as AsgiScope

from ingest import settings
from ingest.collector import tokens
from ingest.collector.answers import (
    Refused,
    answer_errors,
    as_json,
    bearer,
    learner_in,
)
from ingest.collector.limits import Limits
from ingest.collector.metrics import Observed, RequestMetrics, note
from ingest.collector.tokens import Token
from ingest.collector.watched_file import WatchedFile
from ingest.store.database import utc_now
from serving import access
from serving.access import Scope
from serving.api.contracts import Model
from serving.api.openapi import document
from serving.api.pages import MOST_ROWS, ROWS, Page, page
from serving.api.served import PROGRESS, Following, Served
from serving.reader import NamesHidden, Reader, Row

# What one learner's browser may ask: a page has a few cards.
LEARNER_RATE = 20.0
LEARNER_BURST = 200.0
RETRY_AFTER_SEC = 5


@dataclass(frozen=True)
class Endpoint:
    """A path that answers with rows of a model; what stands in the path is a filter.

    `order` is that of the rows where it is not that of the model's key.
    """

    path: str
    model: str
    order: tuple[str, ...] = ()


ENDPOINTS = (
    Endpoint("/v1/progress", PROGRESS),
    Endpoint("/v1/courses/{course_id:path}/progress", "v_course_progress"),
    Endpoint("/v1/courses/{course_id:path}/funnel", "v_course_funnel"),
    Endpoint("/v1/leaderboard", "v_leaderboard_v2", ("rank", "user_id")),
    Endpoint("/v1/at-risk", "v_learner_at_risk"),
)

# What is told of one learner: the model of each part, and the order of its rows.
LEARNER_PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "progress": (PROGRESS, ()),
    "courses": ("v_course_progress", ()),
    "videos": ("v_video_engagement", ()),
    "signals": ("lms_signal", ("occurred_at", "signal_id")),
    "needs_help": ("v_learner_at_risk", ()),
    "streak": ("v_learner_streak", ()),
    "badges": ("v_badge_award", ("awarded_at", "badge")),
    "skills": ("v_skill_mastery", ()),
    "leaderboard": ("v_leaderboard_v2", ()),
}


@dataclass(frozen=True)
class ApiSettings:
    """Where the read API finds things, and the secret that it checks learners with."""

    published: Path
    tokens: Path
    access: Path | None = None
    origins: tuple[str, ...] = ()
    learner_secret: str | None = field(default=None, repr=False)
    now: str | None = None

    @classmethod
    def of(cls, environment: settings.Settings) -> Self:
        """Raises `WarehouseError` for a secret that is too short to be one."""
        return cls(
            published=environment.published_snapshot,
            tokens=environment.tokens,
            access=environment.dashboard_access,
            origins=environment.cors_origins,
            learner_secret=tokens.checked_secret(environment.learner_secret),
            now=environment.now or None,
        )


@dataclass(frozen=True)
class Grant:
    """What a request may read: all in the scope, or of it what is of one learner."""

    scope: Scope
    learner: str | None

    def tag(self) -> str:
        """Another one for whoever gets another answer."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


class ReadApi:
    """Answers requests from the snapshot that `following` has ready."""

    def __init__(self, settings: ApiSettings, following: Following) -> None:
        """Raises `WarehouseError` when the tokens or who may read cannot be read."""
        self._settings = settings
        self._following = following
        self._tokens = WatchedFile(settings.tokens, tokens.read)
        self._access = (
            WatchedFile(settings.access, access.read) if settings.access else None
        )
        self._limits = Limits()

    def rows_of(self, endpoint: Endpoint) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return await self._rows(request, endpoint.model, endpoint.order)

        return answer

    async def model(self, request: Request) -> Response:
        return await self._rows(request, request.path_params.pop("model"))

    async def learner(self, request: Request) -> Response:
        """All of one learner; a part that tells of courses out of scope is null."""
        grant = self._grant(request)
        served = self._served()
        user_id = request.path_params["user_id"]
        if grant.learner not in (None, user_id):
            raise Refused(403, "a learner token reads what is of its own learner only")

        def found() -> dict[str, Any]:
            with served.snapshot.reader(grant.scope) as reader:
                parts = {
                    part: _of_learner(
                        reader, grant, served.models[name], order, user_id
                    )
                    for part, (name, order) in LEARNER_PARTS.items()
                    if name in served.models
                }
            if not parts["progress"]:
                raise Refused(404, "no such learner, or none in your courses")
            return {"user_id": user_id, **parts}

        return await self._answer(request, grant, served, found, changes_with_time=True)

    async def health(self, _request: Request) -> Response:
        return as_json({"status": "alive"})

    async def ready(self, _request: Request) -> Response:
        self._tokens.value()
        problems = [self._tokens.error, self._following.error]
        if self._access:
            self._access.value()
            problems.append(self._access.error)
        if found := [problem for problem in problems if problem]:
            return as_json({"status": "not ready", "problems": found}, 503)
        return as_json({"status": "ready"})

    def openapi(self) -> dict[str, Any]:
        served = self._following.served
        return document(
            {each.path: each.model for each in ENDPOINTS},
            {part: name for part, (name, _) in LEARNER_PARTS.items()},
            served.models if served else {},
        )

    def _served(self) -> Served:
        served = self._following.served
        if served is None:
            raise Refused(503, "nothing to read was published yet", RETRY_AFTER_SEC)
        return served

    def _grant(self, request: Request) -> Grant:
        text = bearer(request)
        token = self._tokens.value().find(text) if text else None
        if token is None:
            raise Refused(401, "no bearer token, or not one that is active")
        note(request, token=token.name)
        if not token.reads:
            raise Refused(403, "this token may send, and read nothing")
        learner = learner_in(
            token, request.headers.get("learner-token"), self._settings.learner_secret
        )
        self._limit(token, learner)
        scope = (
            access.scope_in(self._access.value(), token.name)
            if self._access
            else Scope()
        )
        return Grant(scope, learner)

    def _limit(self, token: Token, learner: str | None) -> None:
        burst = max(2 * token.rate, 10.0)
        wait = self._limits.take((token.sha256,), 1, rate=token.rate, burst=burst)
        if not wait and learner is not None:
            wait = self._limits.take(
                (token.sha256, learner), 1, rate=LEARNER_RATE, burst=LEARNER_BURST
            )
        if wait:
            raise Refused(429, "too many requests", max(1, math.ceil(wait)))

    async def _rows(
        self, request: Request, name: str, order: tuple[str, ...] = ()
    ) -> Response:
        grant = self._grant(request)
        served = self._served()
        model = served.models.get(name)
        if model is None:
            raise Refused(404, "no public model of that name; /openapi.json has all")
        only, after, limit = _asked(request, model)
        in_memory = None
        if model.name == PROGRESS and after is None and grant.scope == Scope():
            in_memory = _in_memory(served, grant, only, limit)

        def found() -> dict[str, Any]:
            if in_memory is not None:
                return _answer(Page(in_memory, None))
            with served.snapshot.reader(grant.scope) as reader:
                answer = page(
                    reader,
                    model,
                    only,
                    learner=grant.learner,
                    order=order,
                    after=after,
                    limit=limit,
                )
                if "course_id" in request.path_params and not answer.rows:
                    _has_course(reader, only["course_id"])
            return _answer(answer)

        return await self._answer(
            request,
            grant,
            served,
            found,
            changes_with_time=model.changes_with_time,
            is_quick=in_memory is not None,
        )

    async def _answer(
        self,
        request: Request,
        grant: Grant,
        served: Served,
        find: Callable[[], dict[str, Any]],
        *,
        changes_with_time: bool,
        is_quick: bool = False,
    ) -> Response:
        snapshot = served.snapshot
        now = utc_now() if changes_with_time and snapshot.now is None else None
        headers = _validators(served, grant, now)
        if _is_known(request, headers):
            return Response(status_code=304, headers=headers)
        try:
            found = find() if is_quick else await asyncio.to_thread(find)
        except duckdb.IOException:
            # What an erased learner's events stood in is gone with the next snapshot.
            why = "the snapshot is being replaced"
            raise Refused(503, why, RETRY_AFTER_SEC) from None
        response = as_json(
            {
                "load_id": snapshot.load_id,
                "published_at": snapshot.published_at.replace(tzinfo=UTC),
                **found,
            }
        )
        response.headers.update(headers)
        return response


def _answer(found: Page) -> dict[str, Any]:
    return {"rows": [_in_utc(row) for row in found.rows], "next": found.next}


def _of_learner(
    reader: Reader, grant: Grant, model: Model, order: tuple[str, ...], user_id: str
) -> list[Row] | None:
    has_course = "course_id" in model or "class_id" in model
    if reader.scope.courses is not None and not has_course:
        return None
    found = page(
        reader,
        model,
        {"user_id": user_id},
        learner=grant.learner,
        order=order,
        limit=None,
    )
    return [_in_utc(row) for row in found.rows]


def _in_utc(row: Row) -> Row:
    """Times are naive in DuckDB; here they say that they are in UTC."""
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _has_course(reader: Reader, course_id: str) -> None:
    if not reader.rows(
        f"""
        select 1 as found from catalogue.catalogue_class
        where course_id = $course_id and {reader.courses("course_id")}
        limit 1
        """,
        course_id=course_id,
    ):
        raise Refused(404, "no such course, or none that you may see")


def _in_memory(
    served: Served, grant: Grant, only: dict[str, str], limit: int
) -> list[Row] | None:
    """All the progress of one learner, if that is what is asked for."""
    user_id = only.get("user_id", grant.learner)
    if user_id is None or set(only) - {"user_id"}:
        return None
    if grant.learner not in (None, user_id):
        return None
    rows = served.progress.of(user_id)
    return rows if len(rows) <= limit else None


def _asked(request: Request, model: Model) -> tuple[dict[str, str], str | None, int]:
    """The filters, where the page begins, and how long it is. Raises `Refused`."""
    only = dict(request.path_params)
    query = dict(request.query_params)
    after = query.pop("after", None)
    text = query.pop("limit", str(ROWS))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_ROWS):
        raise Refused(400, f"limit: give a number from 1 to {MOST_ROWS}")
    may = [name for name in model.filters if name not in only]
    if unknown := [name for name in query if name not in may]:
        raise Refused(
            400,
            f"{unknown[0][:64]}: no filter of {model.name}; there are "
            f"{', '.join((*may, 'after', 'limit'))}",
        )
    return {**only, **query}, after, int(text)


def _validators(served: Served, grant: Grant, now: datetime | None) -> dict[str, str]:
    """The headers by which a client knows whether an answer is another one.

    One that depends on the current time is another one each minute (`now`).
    """
    snapshot, changed_at = served.snapshot, served.changed_at
    if now is not None:
        changed_at = max(changed_at, now.replace(second=0, microsecond=0))
    parts = (
        f"{snapshot.load_id}",
        f"{snapshot.published_at:%Y%m%d%H%M%S%f}",
        f"{changed_at:%Y%m%d%H%M%S}",
        grant.tag(),
    )
    return {
        "ETag": f'"{"-".join(parts)}"',
        "Last-Modified": format_datetime(
            changed_at.replace(microsecond=0, tzinfo=UTC), usegmt=True
        ),
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization, Learner-Token",
    }


def _is_known(request: Request, headers: dict[str, str]) -> bool:
    """Whether the client has the answer already."""
    known = request.headers.get("if-none-match")
    if known is not None:
        tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
        return headers["ETag"] in tags or "*" in tags
    since = request.headers.get("if-modified-since")
    try:
        return since is not None and (
            parsedate_to_datetime(since)
            >= parsedate_to_datetime(headers["Last-Modified"])
        )
    except (ValueError, TypeError):
        return False  # no date, or one without a zone


class _SnapshotGauges:
    def __init__(self, following: Following) -> None:
        self._following = following

    def collect(self) -> Iterable[Metric]:
        served = self._following.served
        if served is None:
            return
        published = served.snapshot.published_at.replace(tzinfo=UTC).timestamp()
        for name, meaning, value in (
            ("load_id", "The load that answers are as of.", served.snapshot.load_id),
            ("published_timestamp_seconds", "When that was published.", published),
            ("refused", "1 if a newer one cannot be read.", int(bool(self._error))),
        ):
            yield GaugeMetricFamily(f"read_api_snapshot_{name}", meaning, value=value)

    @property
    def _error(self) -> str | None:
        return self._following.error


def _path_of(scope: AsgiScope) -> str:
    """The path as it is documented: ids are nobody's business in a log."""
    return str(getattr(scope.get("route"), "path_format", "other"))


async def _on_hidden(_request: Request, error: Exception) -> Response:
    return as_json({"error": str(error)}, 403)


def make_app(settings: ApiSettings, following: Following) -> FastAPI:
    """The ASGI application. Raises `WarehouseError`."""
    api = ReadApi(settings, following)
    metrics = RequestMetrics("read_api")
    metrics.registry.register(_SnapshotGauges(following))

    async def tell_metrics(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app = FastAPIOffline(title="LMS read API", version="1", redoc_url=None)
    for path, endpoint in (
        *((each.path, api.rows_of(each)) for each in ENDPOINTS),
        ("/v1/learners/{user_id:path}", api.learner),
        ("/v1/models/{model}", api.model),
        ("/health", api.health),
        ("/ready", api.ready),
        ("/metrics", tell_metrics),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], response_class=Response)
    answer_errors(app)
    app.add_exception_handler(NamesHidden, _on_hidden)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET"],
            allow_headers=["Authorization", "Learner-Token", "If-None-Match"],
            expose_headers=["ETag", "Last-Modified", "Retry-After"],
            max_age=600,
        )
    app.add_middleware(Observed, metrics=metrics, path_of=_path_of)
    app.openapi = api.openapi  # type: ignore[method-assign]
    return app
