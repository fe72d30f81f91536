"""What is landed is what was read: files that grow, move, lie about themselves."""

import gzip
import os
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pytest

from ingest.errors import WarehouseError
from ingest.landing import catalogue, event_files, lines, zone
from ingest.store.database import open_for_writing
from tests.support.builders import RECEIVED_AT, Warehouse, as_line, ping, write_lines

PINGS = [ping(f"e{number}") for number in range(2_000)]
CONTENT = b"".join(as_line(each) + b"\n" for each in PINGS)


def events_in(warehouse: Warehouse) -> int:
    return int(warehouse.value("select count(*) from raw.lms_event"))


def land_zone(warehouse: Warehouse) -> zone.ZoneLanding:
    return zone.land_zone(warehouse.folder / "landing", warehouse.path)


@pytest.fixture
def events(warehouse: Warehouse) -> Path:
    folder = warehouse.folder / "landing" / "events"
    folder.mkdir(parents=True)
    return folder


def test_what_is_appended_while_a_file_is_landed_is_landed_later(
    warehouse: Warehouse, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lines(events / "a.ndjson", PINGS[:2])
    read_rest = lines.EventFile.chunks

    def grows(opened: lines.EventFile, chunk_bytes: int) -> object:
        yield from read_rest(opened, chunk_bytes)
        with file.open("ab") as more:
            more.write(as_line(PINGS[2]) + b"\n")

    with monkeypatch.context() as patch:
        patch.setattr(lines.EventFile, "chunks", grows)
        assert land_zone(warehouse).events.totals()["accepted"] == 2
    assert land_zone(warehouse).events.totals()["accepted"] == 1
    assert events_in(warehouse) == 3
    assert zone.pending([file], warehouse.path) == []


def test_no_line_of_a_writer_that_appends_is_lost(
    warehouse: Warehouse, events: Path
) -> None:
    file = events / "a.ndjson"

    def write() -> None:
        for each in PINGS[:200]:
            with file.open("ab") as more:
                more.write(as_line(each) + b"\n")
            time.sleep(0.002)

    file.touch()
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        land_zone(warehouse)
    writer.join()
    land_zone(warehouse)
    assert events_in(warehouse) == 200


def test_a_file_that_is_replaced_before_it_is_read_has_the_hash_of_what_was_read(
    warehouse: Warehouse, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lines(events / "a.ndjson", PINGS[:1])
    land_zone(warehouse)
    write_lines(file, PINGS[1:2])  # as many bytes: it is hashed first
    is_known = event_files.is_known

    def replaced(connection: object, path: Path) -> bool:
        known = is_known(connection, path)  # type: ignore[arg-type]
        write_lines(path, PINGS[2:3])
        return known

    monkeypatch.setattr(event_files, "is_known", replaced)
    land_zone(warehouse)
    [[sha256]] = warehouse.rows("select file_sha256 from raw.load where load_id = 2")
    assert sha256 == lines.sha256_of(file)


def test_bytes_that_were_read_another_way_are_landed_again(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    file = tmp_path / "a.ndjson"
    file.write_bytes(gzip.compress(CONTENT))
    with open_for_writing(warehouse.path, make=True) as connection:
        # As the version did that went by the name.
        connection.execute(
            """
            insert into raw.load by name
            select
                1 as load_id, 'events' as kind, 'a.ndjson' as file, $1 as file_sha256,
                $2 as file_bytes, 0 as file_mtime_ns, 2 as lines_read, 0 as accepted,
                0 as duplicate, 0 as conflict, 2 as rejected, now() as received_at,
                0 as seconds, '' as loader_version, '' as contracts_digest
            """,
            [lines.sha256_of(file), file.stat().st_size],
        )
    renamed = file.rename(tmp_path / "a.ndjson.gz")
    [load] = warehouse.land_files(renamed).loads
    assert load.accepted == 2_000
    [again] = warehouse.land_files(renamed.rename(tmp_path / "b.json")).loads
    assert again.known


def test_what_is_passed_over_is_named_with_a_count(
    warehouse: Warehouse, events: Path
) -> None:
    write_lines(events / "a.ndjson", PINGS[:1])
    for name in ("b.txt", "c.ndjson.bz2", "below/d.parquet"):
        (events / name).parent.mkdir(exist_ok=True)
        (events / name).touch()
    (events / ".hidden.ndjson").touch()
    (events / "link").symlink_to(warehouse.folder, target_is_directory=True)
    write_lines(events.parent / "beside.ndjson", PINGS[1:2])
    landed = land_zone(warehouse)
    assert {path.name for path in landed.passed_over} == {
        *("b.txt", "d.parquet", "c.ndjson.bz2", "link", "beside.ndjson")
    }
    line = event_files.passed_over_line(events, landed.passed_over)
    assert line is not None
    assert "5 passed over" in line
    assert "b.txt" in line
    assert line.endswith(" and 2 more")


def test_a_name_that_is_no_utf8_stops_nothing(
    warehouse: Warehouse, events: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(events) + b"/caf\xe9.ndjson"))
    write_lines(odd, [*PINGS[:1], b"{"])
    write_lines(events / "z.ndjson", PINGS[1:2])
    assert land_zone(warehouse).failures == ()
    assert events_in(warehouse) == 2
    [[name]] = warehouse.rows("select file from raw.dead_letter")
    assert name.endswith(r"caf\xe9.ndjson")
    assert land_zone(warehouse).load_ids() == []


def test_a_zstd_frame_without_a_checksum_is_said_to_have_none(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(as_line(ping("e1")) + b"\n")
    unguarded = bytes(sink.getvalue())
    # `{"event_id": "e1"}` as the zstd command packs it.
    guarded = bytes.fromhex(
        "28b52ffd04589900007b226576656e745f6964223a20226531227d0a1be64710"
    )
    # The same from a file, whose size is then in the frame; and 300,000 empty lines.
    sized = bytes.fromhex(
        "28b52ffd24139900007b226576656e745f6964223a20226531227d0a1be64710"
    )
    large = bytes.fromhex(
        "28b52ffda4e0930400540000100a0a0100fbff39c0020200100a039f040a0051ea49"
    )
    # A small size in eight bytes, as no tool writes it and each reads it.
    in_eight_bytes = sized.replace(b"\x24\x13", b"\xe4\x13" + bytes(7), 1)
    skipped = b"\x50\x2a\x4d\x18\x02\0\0\0xx"
    notes = {}
    for name, content in {
        "guarded": guarded,
        "unguarded": unguarded,
        "one_of_two": guarded + unguarded,
        "skipped": skipped + guarded,
        "sized": sized,
        "in_eight_bytes": in_eight_bytes + guarded,
        "one_in_eight_bytes": in_eight_bytes + unguarded,
        "one_of_sized": sized + large + unguarded,
    }.items():
        file = tmp_path / f"{name}.ndjson.zst"
        file.write_bytes(content)
        [load] = warehouse.land_files(file).loads
        assert load.failed is None
        notes[name] = load.note and "without a checksum" in load.note
    assert notes == {
        "guarded": None,
        "unguarded": True,
        "one_of_two": True,
        "skipped": None,
        "sized": None,
        "in_eight_bytes": None,
        "one_in_eight_bytes": True,
        "one_of_sized": True,
    }


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_refused_at_once(
    warehouse: Warehouse, tmp_path: Path, kind: str
) -> None:
    paths = [tmp_path / "a.ndjson", tmp_path / "a.csv"]
    for path in paths:
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    with pytest.raises(WarehouseError, match="not a regular file"):
        event_files.event_files(paths[:1])
    [load] = warehouse.land_files(paths[0]).loads
    assert load.failed is not None
    assert "not a regular file" in load.failed
    with pytest.raises(WarehouseError, match="not a regular file"):
        catalogue.land_catalogue(paths[1], warehouse.path)


def _land_with_little_memory(file: Path, warehouse_path: Path) -> None:
    def peak() -> int:
        # Not getrusage, which counts what the parent had when it forked, too.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    landing = event_files.land([file], warehouse_path, received_at=RECEIVED_AT)
    assert landing.loads[0].rejected == 100_000, landing.loads[0]
    assert peak() < 650, f"{peak()} MB"


@pytest.mark.long
def test_many_rejected_lines_in_a_small_file_take_little_memory(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    file = tmp_path / "a.ndjson.gz"
    file.write_bytes(gzip.compress(b"{}\n" * 100_000))
    assert file.stat().st_size < 4_096
    process = get_context("spawn").Process(
        target=_land_with_little_memory, args=(file, warehouse.path)
    )
    process.start()
    process.join(240)
    assert process.exitcode == 0


def test_lines_are_numbered_through_however_many_a_chunk_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lines, "MOST_LINES", 3)
    file = tmp_path / "a.ndjson"
    for content in (b"\n" * 20, b"a\nbb\nccccccccccccc\nd\n\ne\nf", b"x" * 50):
        file.write_bytes(content)
        chunks = list(lines.EventFile(file).chunks(2 * 1024 * 1024))
        assert max(len(chunk.lines) for chunk in chunks) <= 3
        found = [line for chunk in chunks for line in chunk.lines.to_pylist()]
        wanted = content.removesuffix(b"\n").decode().split("\n")
        assert found == wanted
        numbers = [chunk.first_line_number for chunk in chunks]
        counted = [sum(len(c.lines) for c in chunks[:i]) for i in range(len(chunks))]
        assert numbers == [1 + count for count in counted]
