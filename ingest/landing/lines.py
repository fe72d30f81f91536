"""Event files, split into lines in bounded memory, so that no line harms another.

pyarrow and numpy are imported where lines are read: every command would start 0.1 s
later for them.
"""

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ingest.contracts.events import LARGEST_LINE_BYTES
from ingest.contracts.validation import Rejection

if TYPE_CHECKING:
    import pyarrow as pa

# Row groups in DuckDB hold 122,880 rows: chunks of fewer lines (32 MiB and less) cost
# a third more to insert, and larger ones only memory.
CHUNK_BYTES = 64 * 1024 * 1024
EVENT_SUFFIXES = (".ndjson", ".jsonl")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class BadLine:
    """A line that cannot even be handed on as text.

    `content` is the line as it came, without its newline, or its first 1 MiB;
    `size` (bytes) and `sha256` are of the whole line.
    """

    content: bytes
    size: int
    sha256: str
    rejection: Rejection


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines. `lines` has valid UTF-8 and "" in the place of a bad line."""

    first_line_number: int
    lines: "pa.StringArray"
    bad_lines: dict[int, BadLine] = field(default_factory=dict)


class Source(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


def is_event_file(path: Path) -> bool:
    """`.ndjson` or `.jsonl`, plain, `.gz` or `.zst`; hidden files are not finished."""
    stem = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return stem.suffix in EVENT_SUFFIXES and not path.name.startswith(".")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def open_source(path: Path) -> Source:
    """The bytes of a file, unpacked. Reading a cut or damaged one raises OSError."""
    import pyarrow as pa

    compression = COMPRESSIONS.get(path.suffix)
    if compression is None:
        return path.open("rb", buffering=0)
    if path.stat().st_size == 0:
        raise OSError("the compressed file is empty")
    return _Unpacked(pa.CompressedInputStream(pa.OSFile(str(path)), compression))


@dataclass(frozen=True)
class _Unpacked:
    stream: "pa.CompressedInputStream"

    def readinto(self, buffer: memoryview, /) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def read_chunks(source: Source, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """All lines of `source`, a chunk at a time, in one buffer of `chunk_bytes`.

    `chunk_bytes` is more than the longest line (1 MiB): a longer one is not held, only
    its first 1 MiB, its size and hash. A chunk is valid until the next one is taken.
    """
    # A bytearray is zeroed at once: 0.1 s of every load, however small.
    buffer = mmap.mmap(-1, chunk_bytes, mmap.MAP_PRIVATE)
    view = memoryview(buffer)
    line_number = 1
    kept = _fill(source, view[:3])
    if buffer[:kept] == b"\xef\xbb\xbf":
        kept = 0  # a byte order mark is no part of the first line
    while True:
        count = _fill(source, view[kept:])
        end = kept + count
        if count == 0:
            if end:
                yield _chunk(view[:end], line_number)
            return
        complete = buffer.rfind(b"\n", 0, end)
        if complete >= 0:
            chunk = _chunk(view[:complete], line_number)
            yield chunk
            line_number += len(chunk.lines)
            kept = end - complete - 1
            buffer[:kept] = buffer[complete + 1 : end]
        elif end == chunk_bytes:
            bad, rest = _skip_line(source, view[:end])
            yield Chunk(line_number, _split(memoryview(b"")), {line_number: bad})
            line_number += 1
            kept = len(rest)
            buffer[:kept] = rest
        else:
            kept = end


def chunk_of(lines: Sequence[bytes], first_line_number: int) -> Chunk:
    """Lines that were read before, at least one and none of them too long, as a chunk.

    Together they have less than 2 GiB.
    """
    return _chunk(memoryview(b"\n".join(lines)), first_line_number)


def _fill(source: Source, view: memoryview) -> int:
    filled = 0
    while filled < len(view):
        count = source.readinto(view[filled:])
        if not count:
            break
        filled += count
    return filled


def _skip_line(source: Source, start: memoryview) -> tuple[BadLine, bytes]:
    """Reads past a line that fills the buffer; returns what came after it, too."""
    content = bytes(start[:LARGEST_LINE_BYTES])
    digest = hashlib.sha256(start)
    size = len(start)
    part = bytearray(LARGEST_LINE_BYTES)
    while count := _fill(source, memoryview(part)):
        newline = part.find(b"\n", 0, count)
        line_end = count if newline < 0 else newline
        digest.update(memoryview(part)[:line_end])
        size += line_end
        if newline >= 0:
            return _too_long(content, size, digest.hexdigest()), bytes(
                part[newline + 1 : count]
            )
    return _too_long(content, size, digest.hexdigest()), b""


def _too_long(content: bytes, size: int, sha256: str) -> BadLine:
    detail = f"{size} bytes; at most {LARGEST_LINE_BYTES} fit"
    return BadLine(content, size, sha256, Rejection("line_too_long", None, detail))


def _split(data: memoryview) -> "pa.StringArray":
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, len(data)], np.int32)), pa.py_buffer(data)
    )
    whole.validate(full=True)
    return pc.split_pattern(whole, pattern="\n").values


def _chunk(data: memoryview, first_line_number: int) -> Chunk:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        lines = _split(data)
        longest = pc.max(pc.binary_length(lines)).as_py()
    except pa.ArrowInvalid:
        return _chunk_with_bad_lines(data, first_line_number)
    if longest > LARGEST_LINE_BYTES:
        return _chunk_with_bad_lines(data, first_line_number)
    return Chunk(first_line_number, lines)


def _chunk_with_bad_lines(data: memoryview, first_line_number: int) -> Chunk:
    lines = bytes(data).split(b"\n")
    bad_lines = {}
    for index, line in enumerate(lines):
        bad = bad_line(line)
        if bad:
            bad_lines[first_line_number + index] = bad
            lines[index] = b""
    return Chunk(first_line_number, _split(memoryview(b"\n".join(lines))), bad_lines)


def bad_line(line: bytes) -> BadLine | None:
    """Why the line cannot be handed on as text, if it cannot."""
    if len(line) > LARGEST_LINE_BYTES:
        return _too_long(line[:LARGEST_LINE_BYTES], len(line), sha256_hex(line))
    try:
        line.decode()
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} of the line is not UTF-8"
        rejection = Rejection("invalid_utf8", None, detail)
        return BadLine(line, len(line), sha256_hex(line), rejection)
    return None
