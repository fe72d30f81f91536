"""What is damaged below the warehouse: DuckDB's log, and small files of events, cut and
flipped at every byte.

Of a log is left what was committed first, up to some commit; never a later one without
those before it, and never a row that nobody wrote. A packed file of events is refused,
or read as it was sent. Of a plain one every line that the damage did not touch has the
outcome that it had. Whatever was read adds up: the five outcomes are the lines read.
"""

import contextlib
import gzip
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import duckdb
import pyarrow as pa

from benchmarks.service import peak_mb, resident_mb
from ingest.errors import WarehouseError
from ingest.store.database import open_for_writing
from tests.support.builders import Warehouse, as_line, ping, quiz, warehouse_again
from tests.support.torture.tally import Tally, chosen

# A byte of a file is lost with all after it, or has a bit of it turned.
Damage = tuple[str, bytes]


def damaged(content: bytes, places: list[int], random: Random) -> Iterator[Damage]:
    for place in places:
        yield f"cut at byte {place - 1}", content[: place - 1]
        bit = 1 << random.randrange(8)
        flipped = bytes([content[place - 1] ^ bit])
        yield (
            f"bit {bit} of byte {place - 1} flipped",
            content[: place - 1] + flipped + content[place:],
        )


# --- the log --------------------------------------------------------------------------

COMMITS = 3


def log(seed: int, count: int) -> Tally:
    """At `count` bytes of the log of three commits; at all if it has fewer."""
    tally = Tally()
    random = Random(seed)
    with tempfile.TemporaryDirectory(prefix="lms-torture-") as name:
        folder = Path(name)
        made = _with_a_log(folder)
        whole = made.with_name(f"{made.name}.wal").read_bytes()
        path = folder / "it" / "warehouse.duckdb"
        path.parent.mkdir()
        left: Counter[str] = Counter()
        for what, content in damaged(whole, chosen(len(whole), count, random), random):
            shutil.copy(made, path)
            path.with_name(f"{path.name}.wal").write_bytes(content)
            tally.tried += 1
            try:
                with open_for_writing(path) as connection:
                    rows = connection.execute(
                        "select load_id, class_id from raw.class_skill order by load_id"
                    ).fetchall()
            except WarehouseError as error:
                tally.refused += 1
                said = "damaged" in str(error) or "cannot be opened" in str(error)
                tally.check(said, f"log {what}: {error}")
                left["said"] += 1
            except duckdb.Error as error:
                tally.check(False, f"log {what}: {type(error).__name__}: {error}")
            else:
                tally.check(
                    rows == [(n, f"class {n}") for n in range(len(rows))],
                    f"log {what}: left is {rows}",
                )
                kind = "cut" if what.startswith("cut") else "flipped"
                left[f"{kind}: {len(rows) - 1} of {COMMITS} commits left"] += 1
        tally.note(
            f"{len(whole)} bytes; "
            + ", ".join(f"{kind} {times}" for kind, times in sorted(left.items()))
        )
    return tally


def _with_a_log(folder: Path) -> Path:
    """A warehouse with one row in its file, and one of each commit in its log."""
    warehouse = Warehouse(folder)
    insert = "insert into raw.class_skill values ({0}, 'class {0}', 'a skill')"
    warehouse.execute(insert.format(0))
    made = folder / "made.duckdb"
    with open_for_writing(warehouse.path) as connection:
        connection.execute("pragma disable_checkpoint_on_shutdown")
        for number in range(1, COMMITS + 1):
            connection.execute(insert.format(number))
        shutil.copy(warehouse.path, made)
        shutil.copy(f"{warehouse.path}.wal", f"{made}.wal")
    return made


# --- files of events ------------------------------------------------------------------

LINES = [
    *(as_line(ping(f"e{n}", position=n)) for n in range(4)),
    as_line(quiz("q\N{GRINNING FACE}")),
    b"",
    b"{",
    as_line(ping("e1", position=1)),
    as_line(ping("e2", user="another")),
]
PLAIN = b"".join(line + b"\n" for line in LINES)


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


FILES = {
    "events.ndjson": PLAIN,
    "events.ndjson.gz": gzip.compress(PLAIN, mtime=0),
    "events.ndjson.zst": _zstd(PLAIN),
}


# What DuckDB and Python may hold to land a file, above what they hold before.
MOST_MB = 512
# More than that, packed into less than a megabyte.
BOMB = (b"0" * 2**20, 700)


def files(seed: int, count: int) -> Tally:
    """At `count` bytes of each file; at all if it has fewer. Then files that unpack to
    one endless line, in bounded memory."""
    tally = Tally()
    random = Random(seed)
    with tempfile.TemporaryDirectory(prefix="lms-torture-") as name:
        folder = Path(name) / "it"
        folder.mkdir()
        for file, content in FILES.items():
            expected = _events(folder, file, content)
            assert expected is not None
            refused = 0
            places = chosen(len(content), count, random)
            for what, bytes_ in damaged(content, places, random):
                tally.tried += 1
                what = f"{file} {what}"
                with contextlib.suppress(WarehouseError):
                    found = _events(folder, file, bytes_, what, tally)
                    if found is None:
                        refused += 1
                    elif file.endswith(".gz") and bytes_:
                        tally.check(found == expected, f"{what}: read as {found}")
                    elif file.endswith(".ndjson"):
                        touched = expected - found
                        tally.check(
                            what.startswith(f"{file} cut") or touched.total() <= 2,
                            f"{what}: lines that it did not touch: {touched}",
                        )
            tally.refused += refused
            tally.note(f"{file}: {len(places)} of {len(content)} bytes")
        before = resident_mb(os.getpid())
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        for file, content in (
            ("b.ndjson.gz", _gzip_bomb()),
            ("b.ndjson.zst", _zstd_bomb()),
        ):
            tally.tried += 1
            _events(folder, file, content, file, tally)
        more = peak_mb(os.getpid()) - before
        tally.check(more < MOST_MB, f"landing held {more:.0f} MB more than before")
        tally.note(f"a line of {BOMB[1]} MB, packed: {more:.0f} MB more than before")
    return tally


def _gzip_bomb() -> bytes:
    with io.BytesIO() as packed:
        with gzip.GzipFile(fileobj=packed, mode="wb") as stream:
            for _ in range(BOMB[1]):
                stream.write(BOMB[0])
        return packed.getvalue()


def _zstd_bomb() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for _ in range(BOMB[1]):
            stream.write(BOMB[0])
    return bytes(sink.getvalue())


def _events(
    folder: Path, file: str, content: bytes, what: str = "", tally: Tally | None = None
) -> Counter[str] | None:
    """The events that are accepted of a file that is landed alone; None where it is
    refused, and then nothing of it is left."""
    warehouse = warehouse_again(folder)
    path = folder / file
    path.write_bytes(content)
    [load] = warehouse.land_files(path).loads
    found = Counter(
        str(row) for row in warehouse.rows("select line from raw.lms_event order by 1")
    )
    [counts] = warehouse.rows(
        "select count(*), coalesce(sum(lines_read), 0), coalesce(sum(accepted + "
        "duplicate + conflict + rejected + erased), 0), coalesce(sum(accepted), 0) "
        "from raw.load"
    )
    letters = warehouse.value("select count(*) from raw.dead_letter")
    if tally:
        loads, read, outcomes, accepted = counts
        tally.check(
            read == outcomes and accepted == found.total(),
            f"{what}: {read} lines read, {outcomes} outcomes, {accepted} accepted, "
            f"{found.total()} events",
        )
        tally.check(
            not load.failed or (loads, found.total(), letters) == (0, 0, 0),
            f"{what}: refused, and {found.total()} events of it were landed",
        )
    return None if load.failed else found
