"""What the comparison with other tools counts as wrong."""

from pathlib import Path

import duckdb
import pytest

from benchmarks import peers
from ingest.landing import event_files
from tests.support.builders import ping, write_lines

LINES = (
    ping("a"),
    ping("b"),
    ping("b"),
    ping("b", position=20),
    {"event_id": "c"},
    b"{",
)


@pytest.fixture
def landed(tmp_path: Path) -> Path:
    file = write_lines(tmp_path / "events.ndjson", LINES)
    event_files.land([file], tmp_path / "warehouse.duckdb")
    return tmp_path / "warehouse.duckdb"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (("a", "b"), peers.Wrong(rows=2, lost=0, doubled=0, not_accepted=0)),
        (("a", "a", "c"), peers.Wrong(rows=3, lost=1, doubled=1, not_accepted=1)),
        (("a", "b", None), peers.Wrong(rows=3, lost=0, doubled=0, not_accepted=1)),
        ((), peers.Wrong(rows=0, lost=2, doubled=0, not_accepted=0)),
    ],
)
def test_a_table_is_counted_against_what_landing_accepted(
    landed: Path, tmp_path: Path, ids: tuple[str | None, ...], expected: peers.Wrong
) -> None:
    theirs = tmp_path / "theirs.duckdb"
    with duckdb.connect(str(theirs)) as connection:
        connection.execute(
            "create table t as select unnest($ids::varchar[]) as event_id",
            {"ids": list(ids)},
        )
    assert peers.count(landed, "table their.t", theirs) == expected


def test_every_line_of_ours_is_accounted_for_and_one_that_is_taken_away_is_missed(
    landed: Path,
) -> None:
    assert peers.accounted_for(landed) == len(LINES)
    with duckdb.connect(str(landed)) as connection:
        connection.execute("delete from raw.lms_event where event_id = 'a'")
    assert peers.accounted_for(landed) == len(LINES) - 1


def test_who_stops_at_a_broken_line_gets_all_but_the_rejected(
    landed: Path, tmp_path: Path
) -> None:
    sound = tmp_path / "sound.ndjson"
    dirty = tmp_path / "events.ndjson"
    assert peers.keep_sound(dirty, sound, landed) == len(LINES)
    lines = dirty.read_bytes().splitlines(keepends=True)
    assert sound.read_bytes() == b"".join(lines[:4])


@pytest.mark.long
def test_a_look_back_misses_what_comes_later_and_we_miss_nothing(
    dbt: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers.compare_deriving(20_000, 2, tmp_path)
    rows = {
        cells[1].strip(): int(cells[-2].replace(",", ""))
        for line in capsys.readouterr().out.splitlines()
        if len(cells := line.split("|")) == 6 and cells[-2].strip()[0].isdigit()
    }
    assert rows["this project"] == 0
    assert rows["look-back of 24 hours"] >= rows["look-back of 72 hours"] > 0
