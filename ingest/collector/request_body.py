"""A request's body: read within bounds, unpacked within bounds, split into events."""

import asyncio
import json
import re
import zlib
from dataclasses import dataclass

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from ingest.collector.answers import Refused

LARGEST_BODY_BYTES = 1024 * 1024
MOST_EVENTS = 500
SLOWEST_BODY_SEC = 10

# Splitting so little takes less time than another thread would.
_AT_ONCE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Batch:
    """The events as they came, each a JSON text; tokens that a beacon's body has."""

    events: tuple[bytes, ...]
    token: str | None = None
    learner_token: str | None = None


async def read(request: Request) -> bytes:
    """The raw body. Raises `Refused` before more than 1 MiB of it is held."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:12]) > LARGEST_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(SLOWEST_BODY_SEC):
            async for part in request.stream():
                size += len(part)
                if size > LARGEST_BODY_BYTES:
                    raise _too_large()
                parts.append(part)
    except ClientDisconnect:
        raise Refused(400, "the body did not come to its end") from None
    except TimeoutError:
        raise Refused(408, f"the body took more than {SLOWEST_BODY_SEC} s") from None
    return b"".join(parts)


async def batch_of(body: bytes, encoding: str) -> Batch:
    """The events in a raw body. Raises `Refused`."""
    if len(body) <= _AT_ONCE_BYTES and not encoding:
        return split(body)
    # Beside the event loop: 1 MiB that is not quite JSON takes 0.5 s.
    return await asyncio.to_thread(lambda: split(unpack(body, encoding)))


def unpack(body: bytes, encoding: str) -> bytes:
    """The body without its `Content-Encoding`; at most 1 MiB, or `Refused`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise Refused(415, "Content-Encoding: expected gzip or none")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(body, LARGEST_BODY_BYTES + 1)
    except zlib.error:
        raise Refused(400, "the body is not gzip, or damaged") from None
    if len(content) > LARGEST_BODY_BYTES:
        raise _too_large()
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(400, "the body is not one whole gzip member")
    return content


def _too_large() -> Refused:
    return Refused(413, f"at most {LARGEST_BODY_BYTES} bytes, unpacked too")


class _Object(msgspec.Struct):
    events: msgspec.Raw | None = None
    token: msgspec.Raw | None = None
    learner_token: msgspec.Raw | None = None


_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_text = msgspec.json.Decoder(str).decode


def split(body: bytes) -> Batch:
    """One event, `[event, ...]`, or `{"events": [...], "token": ...}`.

    An event that is no event, or not even strict JSON, is handed on like any other: it
    must not stop those beside it. Raises `Refused` where it is unclear which text is
    an event.
    """
    body = body.strip(b" \t\r\n")
    try:
        batch = split_strictly(body)
    except (msgspec.DecodeError, RecursionError):
        batch = split_leniently(body)
    if len(batch.events) > MOST_EVENTS:
        raise Refused(413, f"{len(batch.events)} events; at most {MOST_EVENTS}")
    return batch


def split_strictly(body: bytes) -> Batch:
    """Raises `DecodeError` for what is no strict JSON."""
    if body.startswith(b"["):
        return Batch(tuple(map(bytes, _decode_list(body))))
    if not body.startswith(b"{"):
        raise Refused(400, "the body is no JSON object or array of events")
    top = _decode_object(body)
    if top.events is None or not bytes(top.events).startswith(b"["):
        events: tuple[bytes, ...] = (body,)
    else:
        events = tuple(map(bytes, _decode_list(top.events)))
    return Batch(events, _text(top.token), _text(top.learner_token))


def _text(value: msgspec.Raw | None) -> str | None:
    if value is None or not bytes(value).startswith(b'"'):
        return None
    return _decode_text(value)


# --- bodies that are not quite JSON --------------------------------------------------

# A lone surrogate in a text that a learner typed, or a NaN, is enough: Python reads
# over both, so that the texts of the events are found, and each is classified alone.
_scan = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\r\n]*")


def split_leniently(body: bytes) -> Batch:
    """Of a strict body, the same as `split_strictly`."""
    text = body.decode(errors="surrogateescape")
    try:
        if text.startswith("["):
            return Batch(_elements(text))
        members = _members(text)
        tokens = [
            json.loads(found)
            if (found := members.get(name, "")).startswith('"')
            else ""
            for name in ("token", "learner_token")
        ]
        if members.get("events", "").startswith("["):
            events = _elements(members["events"])
        else:
            events = (body,)
        return Batch(events, tokens[0] or None, tokens[1] or None)
    except (ValueError, IndexError, RecursionError):
        raise Refused(400, "the body is not JSON") from None


def _elements(text: str) -> tuple[bytes, ...]:
    """The texts of an array's elements; the text may go on after the array."""
    found: list[bytes] = []
    at = _skip(text, 1)
    while text[at] != "]":
        if found:
            at = _skip(text, _after(text, at, ","))
        end = _scan(text, at)[1]
        found.append(text[at:end].encode(errors="surrogateescape"))
        at = _skip(text, end)
    if at + 1 != len(text):
        raise ValueError("something follows the array")
    return tuple(found)


def _members(text: str) -> dict[str, str]:
    """The texts of an object's values by name."""
    found: dict[str, str] = {}
    at = _skip(text, 1)
    while text[at] != "}":
        if found:
            at = _skip(text, _after(text, at, ","))
        name, at = _scan(text, at)
        at = _skip(text, _after(text, _skip(text, at), ":"))
        end = _scan(text, at)[1]
        found[str(name)] = text[at:end]
        at = _skip(text, end)
    if at + 1 != len(text):
        raise ValueError("something follows the object")
    return found


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space
    return space.end()


def _after(text: str, at: int, sign: str) -> int:
    if text[at] != sign:
        raise ValueError(f"expected {sign}")
    return at + 1
