"""Event files, split into lines in bounded memory, so that no line harms another.

pyarrow and numpy are imported where lines are read: every command would start 0.1 s
later for them.
"""

import hashlib
import io
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ingest.contracts.events import LARGEST_LINE_BYTES
from ingest.contracts.validation import Rejection
from ingest.store.files import open_regular

if TYPE_CHECKING:
    import pyarrow as pa

# Row groups in DuckDB hold 122,880 rows: chunks of fewer lines (32 MiB and less) cost
# a third more to insert, and larger ones only memory.
CHUNK_BYTES = 64 * 1024 * 1024
# Of usual events 64 MiB hold half as many; of `{}` 22 million.
MOST_LINES = 500_000
EVENT_SUFFIXES = (".ndjson", ".jsonl", ".json")
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
    """`.ndjson`, `.jsonl` or `.json`, in small letters or capitals, also with `.gz` or
    `.zst` after it; hidden files are not finished."""
    stem = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return stem.suffix.lower() in EVENT_SUFFIXES and not path.name.startswith(".")


def name_of(path: Path) -> str:
    """The path as text that UTF-8 can hold: other bytes of it are spelled `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def sha256_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


PLAIN = "none"
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# Frames that hold no content; parallel packers begin with one.
_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
# What else files are packed with: their bytes would land as broken lines.
_UNREADABLE = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "lz4",
}
_BEGINS_A_LINE = frozenset(b'{[" \t\r\n\xef')


def packing_of(path: Path) -> str:
    """How the file's first bytes say that it is packed: `none`, `gzip` or `zstd`.

    Its name is asked only where they say nothing: an empty or damaged file that is
    called packed is no plain one. Raises `OSError`.
    """
    with open_regular(path) as file:
        start = file.read(6)
    for magic, packing in _MAGIC.items():
        if start.startswith(magic):
            return packing
    if _SKIPPED.match(start):
        return "zstd"
    for magic, packing in _UNREADABLE.items():
        if start.startswith(magic):
            raise OSError(f"packed with {packing}; pack it with gzip or zstd")
    if path.suffix.lower() in COMPRESSIONS and not (
        start and start[0] in _BEGINS_A_LINE
    ):
        raise OSError(
            f"neither plain nor {COMPRESSIONS[path.suffix.lower()]}"
            if start
            else "the compressed file is empty"
        )
    return PLAIN


class EventFile:
    """An event file that is being read: its lines, and what was read of it.

    Its bytes are hashed and counted as they are read, so that what grows or is replaced
    meanwhile is not taken for what was landed.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError` where it cannot be read."""
        self.packing = packing_of(path)
        self._file = _Hashing(path)

    def source(self) -> Source:
        """Its bytes, unpacked. Reading them raises `OSError` where it is damaged."""
        if self.packing == PLAIN:
            return self._file
        import pyarrow as pa

        packed = pa.PythonFile(self._file, mode="r")
        # Kept: it closes the file when it is forgotten.
        self._unpacked = pa.CompressedInputStream(packed, self.packing)
        return _Unpacked(self._unpacked)

    def chunks(self, chunk_bytes: int) -> Iterator[Chunk]:
        """All its lines. Raises `OSError` where it is cut or damaged."""
        yield from read_chunks(self.source(), chunk_bytes)
        self._file.read_rest()

    @property
    def sha256(self) -> str:
        return self._file.digest.hexdigest()

    @property
    def size(self) -> int:
        """How many of its bytes were read."""
        return self._file.size

    @property
    def mtime_ns(self) -> int:
        """When it was changed last before it was read."""
        return self._file.mtime_ns

    def close(self) -> None:
        self._file.close()


class _Hashing(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._file = open_regular(path)
        self.mtime_ns = os.fstat(self._file.fileno()).st_mtime_ns
        self.digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer) or 0
        self.digest.update(memoryview(buffer)[:count])
        self.size += count
        return count

    def read_rest(self) -> None:
        part = bytearray(1024 * 1024)
        while self.readinto(part):
            pass

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class _Unpacked:
    stream: "pa.CompressedInputStream"

    def readinto(self, buffer: memoryview, /) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def has_unguarded_frame(path: Path) -> bool:
    """Whether a zstd frame of the file has no checksum: flipped bits go unnoticed."""
    with open_regular(path) as file:
        while len(magic := file.read(4)) == 4:
            if _SKIPPED.match(magic):
                file.seek(int.from_bytes(file.read(4), "little"), os.SEEK_CUR)
                continue
            descriptor = (file.read(1) or b"\0")[0]
            if not descriptor & 0b100:
                return magic in _MAGIC
            is_single_segment = bool(descriptor & 0b100000)
            file.seek(
                (0 if is_single_segment else 1)
                + (0, 1, 2, 4)[descriptor & 0b11]
                + ((1 if is_single_segment else 0), 2, 4, 8)[descriptor >> 6],
                os.SEEK_CUR,
            )
            is_last = False
            while not is_last and (block := file.read(3)):
                header = int.from_bytes(block, "little")
                is_last = bool(header & 1)
                is_run = header >> 1 & 0b11 == 1
                file.seek(1 if is_run else header >> 3, os.SEEK_CUR)
            file.seek(4, os.SEEK_CUR)
    return False


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
                yield from _chunks(buffer, 0, end, line_number)
            return
        complete = buffer.rfind(b"\n", 0, end)
        if complete >= 0:
            for chunk in _chunks(buffer, 0, complete, line_number):
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


def _chunks(
    buffer: mmap.mmap, start: int, end: int, line_number: int
) -> Iterator[Chunk]:
    """The lines between two places of the buffer, never too many in one chunk."""
    count = 1 + buffer[start:end].count(b"\n")
    if count <= MOST_LINES:
        yield _chunk(memoryview(buffer)[start:end], line_number)
        return
    middle = buffer.find(b"\n", (start + end) // 2, end)
    if middle < 0:
        middle = buffer.rfind(b"\n", start, end)
    yield from _chunks(buffer, start, middle, line_number)
    before = 1 + buffer[start:middle].count(b"\n")
    yield from _chunks(buffer, middle + 1, end, line_number + before)


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
