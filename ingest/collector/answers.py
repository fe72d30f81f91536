"""What services over HTTP share: who asks, JSON, and errors that are JSON, too."""

import json

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from ingest.collector import tokens
from ingest.collector.tokens import Token


class Refused(Exception):
    """A request that is answered with an error; nothing of it was kept."""

    def __init__(self, status: int, why: str, retry_after_sec: int | None = None):
        super().__init__(why)
        self.status = status
        self.why = why
        self.retry_after_sec = retry_after_sec


def bearer(request: Request) -> str | None:
    """The text of the bearer token, if the request has one."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


def learner_in(token: Token, text: str | None, secret: str | None) -> str | None:
    """The learner that a request is bound to, by the learner token `text` beside its
    token; None for one that is not bound. Raises `Refused`."""
    if text is None:
        if token.needs_learner:
            raise Refused(401, "this token needs a learner token beside it")
        return None
    if secret is None:
        raise Refused(503, "no LMS_LEARNER_SECRET is set to check learners with")
    learner = tokens.learner_of(text, secret)
    if learner is None:
        raise Refused(401, "the learner token is forged, or no longer valid")
    return learner


def as_json(value: object, status: int = 200) -> Response:
    # An id that UTF-8 cannot hold is answered as it was spelled, in escapes.
    try:
        content = msgspec.json.encode(value)
    except UnicodeEncodeError:
        content = json.dumps(msgspec.to_builtins(value)).encode()
    return Response(content, status, media_type="application/json")


async def _on_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    response = as_json({"error": error.why}, error.status)
    if error.retry_after_sec is not None:
        response.headers["Retry-After"] = str(error.retry_after_sec)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = as_json({"error": str(error.detail)}, error.status_code)
    response.headers.update(error.headers or {})
    return response


def answer_errors(app: FastAPI) -> None:
    """Answers `Refused`, and what no route takes, with `{"error": ...}`."""
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(HTTPException, _on_http_error)
