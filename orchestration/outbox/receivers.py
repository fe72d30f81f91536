"""Who gets the batches of the outbox: a folder as files, a receiver as POSTs.

A target's `send` returns when the target has the batch for good, or raises
`NotDelivered`. Nothing here knows how far a target is.
"""

import asyncio
import contextlib
import email.utils
import functools
import json
import re
import ssl
import threading
import urllib.parse
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import httpx
import tenacity

from ingest.errors import WarehouseError, first_line
from ingest.store.database import utc_now
from ingest.store.files import write_durably
from orchestration.outbox import integration_events
from orchestration.outbox.integration_events import FORMATS, Format
from orchestration.outbox.outbox import Batch

LONGEST_RETRY_AFTER = timedelta(hours=1)
LARGEST_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Receiver:
    """Who gets POSTs. Its watermark is kept under `name`, and messages call it so.

    The URL is not shown: its query may hold a key.
    """

    name: str
    url: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)


def parse_receivers(text: str, variable: str) -> tuple[Receiver, ...]:
    """Reads `[name=]URL ...`; `user:password@` is Basic, `:token@` is Bearer.

    Without a name a receiver goes by its URL, short of credentials and query. Raises
    `WarehouseError`, which names the variable.
    """
    found: list[Receiver] = []
    for number, entry in enumerate(text.split(), start=1):
        match = re.fullmatch(r"(?:([\w.-]+)=)?(https?://[!-~]+)", entry)
        try:
            parts = urllib.parse.urlsplit(match[2] if match else "")
            usable = bool(parts.hostname and parts.port != 0)
        except ValueError:
            usable = False
        if not match or not usable:
            raise WarehouseError(
                f"{variable}: entry {number} is no URL; give https://host/path, with "
                "name= before it if it may move"
            )
        credentials, _, host = parts.netloc.rpartition("@")
        shown = parts._replace(netloc=host, query="", fragment="")
        authorization = _authorization(credentials)
        if authorization and not re.fullmatch(r"[ -~\xa0-\xff]*", authorization):
            raise WarehouseError(
                f"{variable}: entry {number} has a token that no HTTP header can "
                "carry; give one of printable characters"
            )
        found.append(
            Receiver(
                name=match[1] or urllib.parse.urlunsplit(shown),
                url=urllib.parse.urlunsplit(shown._replace(query=parts.query)),
                authorization=authorization,
            )
        )
    if len({receiver.name for receiver in found}) < len(found):
        raise WarehouseError(f"{variable}: two entries have one name; name them apart")
    return tuple(found)


def _authorization(credentials: str) -> str | None:
    user, _, secret = credentials.partition(":")
    user, secret = urllib.parse.unquote(user), urllib.parse.unquote(secret)
    if user:
        return f"Basic {b64encode(f'{user}:{secret}'.encode()).decode()}"
    return f"Bearer {secret}" if secret else None


class NotDelivered(Exception):
    """A target did not take a batch; `not_before` is when it may be asked again."""

    def __init__(self, reason: str, not_before: datetime | None = None) -> None:
        super().__init__(reason)
        self.not_before = not_before


@dataclass(frozen=True)
class Target:
    """Where batches go.

    `largest_batch` cuts batches; a folder takes them whole, also where its watermark
    was set into one: two files never have the same event. The watermark is kept under
    the key: another folder or another URL is another target and gets all from the
    start.
    """

    key: str
    send: Callable[[Batch], None]
    largest_batch: int | None = None


# --- folders -----------------------------------------------------------------------


def folder_target(event_format: Format, folder: Path) -> Target:
    """NDJSON files, a batch each, named after the numbers in them."""

    def send(batch: Batch) -> None:
        lines = integration_events.as_lines(event_format, batch.facts)
        content = b"".join(line + b"\n" for line in lines)
        path = folder / event_format / _batch_file_name(batch)
        try:
            if _is_of_another_outbox(path, content, batch):
                raise NotDelivered(
                    f"{path.parent}: has files of another outbox; move them away, or "
                    "set LMS_OUTBOX to another folder"
                )
            write_durably(path, content)
        except OSError as error:
            raise NotDelivered(f"{path}: not written ({error.strerror})") from error

    return Target(f"{_files_key(event_format)}{folder}", send)


def folders_of(targets: frozenset[str]) -> frozenset[Path]:
    """The folders among targets, by their keys."""
    return frozenset(
        Path(target.removeprefix(_files_key(event_format)))
        for target in targets
        for event_format in FORMATS
        if target.startswith(_files_key(event_format))
    )


def _files_key(event_format: Format) -> str:
    return f"{event_format} files "


def _batch_file_name(batch: Batch) -> str:
    digits = integration_events.SEQUENCE_DIGITS
    return f"{batch.first:0{digits}}-{batch.last:0{digits}}.ndjson"


def _is_of_another_outbox(path: Path, content: bytes, batch: Batch) -> bool:
    """A warehouse made again counts from 1 again: names mean something else then."""
    if path.exists():
        return path.read_bytes() != content
    return batch.first == 1 and any(path.parent.glob(f"{path.name.split('-')[0]}-*"))


# --- HTTP --------------------------------------------------------------------------

_HEADERS: dict[Format, dict[str, str]] = {
    "cloudevents": {
        "Content-Type": "application/cloudevents-batch+json; charset=utf-8"
    },
    "xapi": {"Content-Type": "application/json", "X-Experience-API-Version": "1.0.3"},
}

_WORTH_ANOTHER_TRY = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}


def receiver_target(
    event_format: Format,
    receiver: Receiver,
    *,
    largest_batch: int,
    timeout_sec: float,
    give_up_sec: float,
    stop: threading.Event,
) -> Target:
    """A URL that gets each batch as one POST, with retries for up to `give_up_sec`.

    `stop` ends the waiting between retries.
    """

    def send(batch: Batch) -> None:
        lines = integration_events.as_lines(event_format, batch.facts)
        body = b"[" + b",".join(lines) + b"]"
        headers = {
            **_HEADERS[event_format],
            "Idempotency-Key": f'"{integration_events.idempotency_key(batch.facts)}"',
            "User-Agent": "lms-warehouse",
            "Accept-Encoding": "identity",
        }
        if receiver.authorization:
            headers["Authorization"] = receiver.authorization
        attempt = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Unavailable),
            wait=_wait,
            stop=tenacity.stop_any(
                tenacity.stop_before_delay(give_up_sec),
                tenacity.stop_when_event_set(stop),
            ),
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        try:
            attempt(_post, event_format, receiver, headers, body, timeout_sec)
        except _Unavailable as error:
            tried = attempt.statistics.get("attempt_number", 1)
            raise NotDelivered(
                f"{error}; tries: {tried}", error.not_before()
            ) from error

    return Target(receiver_key(event_format, receiver), send, largest_batch)


def receiver_key(event_format: Format, receiver: Receiver) -> str:
    return f"{event_format} {receiver.name}"


class _Unavailable(Exception):
    """The receiver may take the same batch later."""

    def __init__(self, reason: str, retry_after_sec: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_sec = retry_after_sec

    def not_before(self) -> datetime | None:
        if self.retry_after_sec is None:
            return None
        return utc_now() + timedelta(seconds=self.retry_after_sec)


_back_off = tenacity.wait_random_exponential(multiplier=0.5, max=30)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome and state.outcome.exception()
    if isinstance(error, _Unavailable) and error.retry_after_sec is not None:
        return error.retry_after_sec
    return _back_off(state)


@dataclass
class _Answer:
    """As far as it came: the status and the headers, and what there is of the body."""

    status: int
    headers: httpx.Headers
    body: bytearray = field(default_factory=bytearray)


def _post(
    event_format: Format,
    receiver: Receiver,
    headers: dict[str, str],
    body: bytes,
    timeout_sec: float,
) -> None:
    """One POST. Returns when it was acknowledged with a 2xx.

    What the receiver says beside its status is not shown: it may repeat the learners'
    data, which must not get into logs.
    """
    answer = asyncio.run(_exchange(receiver, headers, body, timeout_sec))
    said = (
        f"{receiver.name}: answered {answer.status} "
        f"{httpx.codes.get_reason_phrase(answer.status)}"
    ).rstrip()
    if 200 <= answer.status < 300:
        if event_format == "xapi" and (refused := _refused_statements(answer.body)):
            raise NotDelivered(f"{said}, but refused {refused} statements of the batch")
        return
    if answer.status >= 500 or answer.status in _WORTH_ANOTHER_TRY:
        raise _Unavailable(said, _retry_after_sec(answer.headers))
    raise NotDelivered(f"{said}: it will not take this batch as it is")


async def _exchange(
    receiver: Receiver, headers: dict[str, str], body: bytes, timeout_sec: float
) -> _Answer:
    """Sends and reads; all of it has to be done within `timeout_sec`.

    httpx bounds each read, so that one byte now and then would go on for ever: hence
    asyncio, which ends the whole. Redirects are not followed: they would turn a POST
    into a GET. An answer that breaks off after its status is an answer.
    """
    answer: _Answer | None = None
    try:
        async with (
            asyncio.timeout(timeout_sec),
            httpx.AsyncClient(
                timeout=None, trust_env=False, verify=_certificates()
            ) as client,
            client.stream(
                "POST",
                receiver.url,
                headers=httpx.Headers(headers, encoding="latin-1"),
                content=body,
            ) as response,
        ):
            answer = _Answer(response.status_code, response.headers)
            async for part in response.aiter_raw():
                answer.body += part[: LARGEST_ANSWER_BYTES - len(answer.body)]
                if len(answer.body) >= LARGEST_ANSWER_BYTES:
                    break
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        if answer is None:
            cause = _first_cause(error)
            reason = (
                "" if isinstance(cause, TimeoutError) else f" ({first_line(cause)})"
            )
            raise _Unavailable(f"{receiver.name}: no answer{reason}") from error
    assert answer is not None
    return answer


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The certificates that this machine trusts; httpx would bring its own."""
    return ssl.create_default_context()


def _first_cause(error: BaseException) -> BaseException:
    """What the system said; httpx and asyncio wrap it in words that say less."""
    while cause := error.__cause__ or error.__context__:
        error = cause
        if isinstance(error, BaseExceptionGroup):  # one for each address of the host
            error = error.exceptions[0]
    return error


def _refused_statements(answer: bytes | bytearray) -> int:
    """A record store that may take a part of a batch says 200 and counts the rest."""
    with contextlib.suppress(ValueError):
        said = json.loads(answer)
        if isinstance(said, dict):
            return int(said.get("rejected") or 0)
    return 0


def _retry_after_sec(headers: httpx.Headers) -> float | None:
    """Seconds, or a date, as HTTP has it; never negative, never more than an hour."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=None) - utc_now()).total_seconds()
    return min(max(seconds, 0), LONGEST_RETRY_AFTER.total_seconds())
