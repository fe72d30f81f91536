"""The journal has every load, whatever became of the process that made it."""

import resource

import pytest

from ingest.store import journal
from tests.support.builders import RECEIVED_AT, Class, Warehouse, ping


def test_it_says_what_was_landed_and_when(warehouse: Warehouse) -> None:
    warehouse.land_catalogue(Class("c1"), effective_from="2026-02-01")
    warehouse.land([ping("e1"), b"{"])

    loads = journal.read(warehouse.path).loads

    assert [(each.load_id, each.kind, each.lines_read) for each in loads] == [
        (1, "catalogue", 0),
        (2, "events", 2),
    ]
    assert f"{loads[0].effective_from}" == "2026-02-01 00:00:00"
    assert loads[1].received_at == RECEIVED_AT


def test_what_a_killed_process_did_not_append_or_only_half_the_next_load_does(
    warehouse: Warehouse,
) -> None:
    for number in range(3):
        warehouse.land([ping(f"e{number}")])
    path = journal.file_of(warehouse.path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:50])

    warehouse.land([ping("e9")])

    assert [each.load_id for each in journal.read(warehouse.path).loads] == [1, 2, 3, 4]


def test_with_another_warehouse_in_its_place_loads_begin_anew(
    warehouse: Warehouse,
) -> None:
    for number in range(3):
        warehouse.land([ping(f"e{number}")])
    warehouse.path.unlink()
    warehouse.land([ping("other")])

    [load] = journal.read(warehouse.path).loads
    assert load.file.endswith("events-4.ndjson")


def test_a_line_that_the_disk_takes_in_part_is_an_error_and_no_line(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1")])
    size = journal.file_of(warehouse.path).stat().st_size
    backup = journal.Backup(folder="/backups", number=1, load_id=1, made_at=RECEIVED_AT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        with pytest.raises(OSError, match="File too large"):
            journal.note_backup(warehouse.path, backup)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert journal.read(warehouse.path).backups == ()

    journal.note_backup(warehouse.path, backup)

    assert journal.read(warehouse.path).backups == (backup,)
    assert [each.load_id for each in journal.read(warehouse.path).loads] == [1]
