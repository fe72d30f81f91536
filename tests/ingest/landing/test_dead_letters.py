"""Dead letters: retried exactly once whatever comes of it, discarded with a record.

And the law of conservation, which holds for each load and in total at every step.
"""

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ingest.contracts.events import LARGEST_LINE_BYTES
from ingest.errors import WarehouseError
from ingest.landing import dead_letters, outcomes
from ingest.landing.dead_letters import LetterId, Retry, Selection
from ingest.settings import Settings
from ingest.store import conservation
from ingest.store.database import open_for_reading
from orchestration.cli import app
from tests.support.builders import (
    RECEIVED_AT,
    Line,
    Warehouse,
    as_line,
    new_warehouse,
    ping,
    ping_v1,
    quiz,
    without,
    write_lines,
)
from tests.support.earlier_loader import PING_V2, QUIZ_V1, before, land_before
from tests.support.kills import KILLS, Processes, instants, kill_again_until

RETRIED_AT = RECEIVED_AT + timedelta(days=7)


def retry(
    warehouse: Warehouse, selection: Selection | None = None, **how: Any
) -> Retry:
    return dead_letters.retry(warehouse.path, selection, **{"now": RETRIED_AT, **how})


def counts(result: Retry) -> dict[str, int]:
    kinds = ("accepted", "duplicate", "conflict", "rejected")
    return {kind: getattr(result, kind) for kind in kinds if getattr(result, kind)}


def letters(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.rows(
        "select load_id, line_number, reason, attempts "
        "from raw.dead_letter order by all"
    )


def raw(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of raw; how long a load took may differ."""
    tables = warehouse.rows(
        "select table_name from duckdb_tables() where schema_name = 'raw' order by all"
    )
    columns = {"load": "* exclude (seconds)"}
    return {
        table: warehouse.rows(
            f"select {columns.get(table, '*')} from raw.{table} order by all"
        )
        for (table,) in tables
    }


def assert_nothing_is_lost(warehouse: Warehouse) -> None:
    with open_for_reading(warehouse.path) as connection:
        assert conservation.broken_loads(connection) == []
        assert conservation.totals(connection).unaccounted == 0


# --------------------------------------------------------------------------------------
# What becomes of a retried line
# --------------------------------------------------------------------------------------


def test_a_line_whose_contract_came_later_is_an_event_of_the_retry(
    warehouse: Warehouse,
) -> None:
    land_before(warehouse, ping_v1("e1"), ping("e2"))

    result = retry(warehouse)

    assert (result.load_id, result.lines_read, counts(result)) == (
        2,
        1,
        {"accepted": 1},
    )
    assert letters(warehouse) == []
    [event] = warehouse.records("from raw.lms_event where event_id = 'e2'")
    [load] = warehouse.records("from raw.load where load_id = 2")
    [first] = warehouse.records("from raw.load where load_id = 1")
    assert (event["load_id"], event["file"], event["line_number"]) == (
        *(2, first["file"], 2),
    )
    assert event["line"] == as_line(ping("e2")).decode()
    assert event["received_at"] == load["received_at"] == RETRIED_AT
    assert (load["kind"], load["lines_read"], load["accepted"]) == ("retry", 1, 1)
    assert_nothing_is_lost(warehouse)


def test_a_line_that_landed_meanwhile_is_a_duplicate(warehouse: Warehouse) -> None:
    land_before(warehouse, ping("e1"))
    warehouse.land([ping("e1"), b" "])

    result = retry(warehouse)

    assert counts(result) == {"duplicate": 1}
    assert letters(warehouse) == []
    assert warehouse.rows("select event_id, load_id from raw.lms_event") == [("e1", 2)]
    assert_nothing_is_lost(warehouse)


def test_a_line_that_is_still_dead_has_one_attempt_more_and_todays_reason(
    warehouse: Warehouse,
) -> None:
    bad = ping("e1", payload={"position_sec": -1})
    land_before(warehouse, b"{broken", bad, ping("e2"))
    warehouse.land([ping("e2", position=11)])

    result = retry(warehouse)

    assert counts(result) == {"conflict": 1, "rejected": 2}
    assert result.rejected_by_reason == {"broken_json": 1, "out_of_range": 1}
    assert letters(warehouse) == [
        (1, 1, "broken_json", 2),
        (1, 2, "out_of_range", 2),
        (1, 3, "event_id_conflict", 2),
    ]
    [(field, event_id, first_seen)] = warehouse.rows(
        "select field, event_id, first_seen from raw.dead_letter where line_number = 3"
    )
    assert (field, event_id, first_seen) == ("event_id", "e2", RECEIVED_AT)
    assert_nothing_is_lost(warehouse)


@pytest.mark.parametrize("batch_bytes", [1, 2**26], ids=["batch by batch", "at once"])
def test_of_retried_lines_with_one_id_the_first_is_the_event(
    warehouse: Warehouse, batch_bytes: int
) -> None:
    land_before(warehouse, ping("e1"), quiz("e2"), ping("e1"))
    land_before(warehouse, ping("e1", position=11), b"\xff")

    result = retry(warehouse, batch_bytes=batch_bytes)

    assert counts(result) == {
        **{"accepted": 2, "duplicate": 1},
        **{"conflict": 1, "rejected": 1},
    }
    assert warehouse.rows(
        "select event_id, file like '%events-1.ndjson', line_number, load_id "
        "from raw.lms_event order by all"
    ) == [("e1", True, 1, 3), ("e2", True, 2, 3)]
    assert_nothing_is_lost(warehouse)


def test_waiting_does_not_make_the_time_of_a_wrong_clock_right(
    warehouse: Warehouse,
) -> None:
    at = (RECEIVED_AT + timedelta(days=2)).isoformat() + "Z"
    warehouse.land([ping("e1", at=at)])
    late = RECEIVED_AT + timedelta(hours=20)
    with before(PING_V2):
        warehouse.land([ping("e2", at=at)], received_at=RECEIVED_AT + timedelta(days=1))
        warehouse.land([ping("e3", at=at)], received_at=late)

    result = retry(warehouse)

    assert counts(result) == {"accepted": 1, "rejected": 2}
    assert warehouse.rows("select event_id from raw.lms_event") == [("e2",)]


def test_a_line_of_which_only_the_start_was_kept_is_not_sent_again(
    warehouse: Warehouse,
) -> None:
    warehouse.land([b'{"event_id": "' + b"x" * LARGEST_LINE_BYTES])

    result = retry(warehouse)

    assert (result.load_id, result.lines_read, result.truncated) == (None, 0, 1)
    assert letters(warehouse) == [(1, 1, "line_too_long", 1)]


def test_retrying_again_changes_nothing_that_was_accepted(warehouse: Warehouse) -> None:
    land_before(warehouse, ping("e1"), ping("e2"))
    retry(warehouse)
    after_one = raw(warehouse)

    assert retry(warehouse).load_id is None
    assert raw(warehouse) == after_one
    with pytest.raises(WarehouseError, match="1:2: no such dead letter"):
        retry(warehouse, Selection(letters=(LetterId(1, 2),)))


def test_a_dry_run_says_what_a_retry_does_and_writes_nothing(
    warehouse: Warehouse,
) -> None:
    land_before(warehouse, ping("e1"), ping("e1"), ping("e2", position=-1), b"{")
    before_it = raw(warehouse)

    dry = retry(warehouse, dry_run=True, batch_bytes=1)

    assert raw(warehouse) == before_it
    assert (dry.load_id, dry.dry_run) == (None, True)
    real = retry(warehouse)
    assert replace(dry, seconds=0) == replace(
        real, load_id=None, dry_run=True, seconds=0
    )


def test_a_retry_that_fails_midway_leaves_everything_as_it_was(
    warehouse: Warehouse,
) -> None:
    land_before(warehouse, *(ping(f"e{number}") for number in range(5)))
    before_it = raw(warehouse)
    calls = iter([None, None])

    def fail_at_the_third(*arguments: Any, **named: Any) -> Any:
        next(calls)
        return classify(*arguments, **named)

    classify = outcomes.classify
    with (
        mock.patch.object(dead_letters, "classify", fail_at_the_third),
        pytest.raises(StopIteration),
    ):
        retry(warehouse, batch_bytes=1)

    assert raw(warehouse) == before_it


# --------------------------------------------------------------------------------------
# Which ones
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def assorted(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Dead letters of several reasons, loads, types and ages."""
    warehouse = Warehouse(tmp_path_factory.mktemp("assorted"))
    warehouse.land(
        [quiz("e1", score=-1), ping("e2", version=9), as_line(quiz("e3"))[:-1], b"\xff"]
    )
    warehouse.land([b"{", b"1"], received_at=RECEIVED_AT + timedelta(days=3))
    return warehouse


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), ["1:1", "1:2", "1:3", "1:4", "2:1", "2:2"]),
        (Selection(reasons=("broken_json",)), ["1:3", "2:1"]),
        (Selection(reasons=("broken_json", "not_an_object")), ["1:3", "2:1", "2:2"]),
        (Selection(load_ids=(2,)), ["2:1", "2:2"]),
        (Selection(types=("QUIZ_SUBMIT",)), ["1:1", "1:3"]),
        (Selection(types=("VIDEO_PING", "QUIZ_SUBMIT")), ["1:1", "1:2", "1:3"]),
        (Selection(older_than=timedelta(days=7)), ["1:1", "1:2", "1:3", "1:4"]),
        (Selection(newer_than=timedelta(days=7)), ["2:1", "2:2"]),
        (Selection(letters=(LetterId(1, 4), LetterId(2, 2))), ["1:4", "2:2"]),
        (Selection(reasons=("broken_json",), load_ids=(1,)), ["1:3"]),
        (Selection(reasons=("no_such",)), []),
    ],
)
def test_dead_letters_are_chosen_by_what_is_given(
    assorted: Warehouse, selection: Selection, expected: list[str]
) -> None:
    found = dead_letters.list_letters(assorted.path, selection, now=RETRIED_AT)

    assert [str(letter.id) for letter in found.letters] == expected
    assert found.total == len(expected)


def test_a_letter_has_every_fault_with_the_value_that_was_refused(
    warehouse: Warehouse,
) -> None:
    wrong = ping("e1", position=-1, duration=0, at="yesterday")
    warehouse.land([{**wrong, "user_id": ""}])
    [letter] = dead_letters.list_letters(warehouse.path).letters
    faults = letter.as_json(with_line=False)["faults"]
    assert [(each["reason"], each["field"], each["value"]) for each in faults] == [
        ("out_of_range", "user_id", '""'),
        ("bad_timestamp", "occurred_at", '"yesterday"'),
        ("out_of_range", "payload.position_sec", "-1"),
        ("out_of_range", "payload.duration_sec", "0"),
    ]
    for fields, found in ((("payload.duration_sec",), 1), (("class_id",), 0)):
        selection = Selection(fields=fields)
        assert dead_letters.list_letters(warehouse.path, selection).total == found


def test_a_letter_names_its_event_wherever_the_line_does(warehouse: Warehouse) -> None:
    warehouse.land(
        [
            ping("e1", position=-1),
            b'{"event_id": "e2", "type": "VIDEO_PING", ',
            b'{"event_id": "e\\u0033", "name": "Jos\xe9"}',
            b'{"event_id": "' + b"x" * 300 + b'"',
            as_line(ping("e4"))[:-1] + b" " * 1024 * 1024 + b"}",
        ]
    )
    rows = warehouse.rows("select event_id from raw.dead_letter order by line_number")
    assert rows == [("e1",), ("e2",), ("e3",), (None,), ("e4",)]


def test_a_letter_whose_mended_line_lands_closes_itself(warehouse: Warehouse) -> None:
    """Export, mend, land; what is not surely the same fact is left to people."""
    warehouse.land(
        [
            ping("e1", position=-1),
            as_line(ping("e2"))[:-1],
            without(ping("e3"), "user_id"),
            ping("e4", position=-1, user="ada"),
            ping("e5", position=-1),
        ]
    )
    mended = warehouse.land(
        [ping("e1"), ping("e2"), ping("e3"), ping("e4", user="babbage")]
    )
    assert (mended.accepted, mended.mended) == (4, 3)
    assert letters_left(warehouse) == ["1:4", "1:5"]
    assert letters_left(warehouse, Selection(landed_since=True)) == ["1:4"]
    history = dead_letters.show(warehouse.path, LetterId(1, 2))
    assert history.discarded is not None
    assert history.discarded.why == "mended: its event landed with load 2"
    assert_nothing_is_lost(warehouse)


def letters_left(warehouse: Warehouse, selection: Selection | None = None) -> list[str]:
    found = dead_letters.list_letters(warehouse.path, selection)
    return [str(letter.id) for letter in found.letters]


def test_a_warehouse_of_before_gets_its_columns_and_event_ids(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1", position=-1), b"{"])
    warehouse.execute("update raw.dead_letter set event_id = null")
    for table, column in (
        *(("dead_letter", "faults"), ("discarded_letter", "faults")),
        ("load", "packing"),
    ):
        warehouse.execute(f"alter table raw.{table} drop column {column}")
    warehouse.execute("drop table raw.format")
    found = dead_letters.list_letters(warehouse.path).letters
    assert [letter.event_id for letter in found] == ["e1", None]
    assert [letter.as_json(with_line=False)["faults"] for letter in found] == [[], []]
    assert dead_letters.retry(warehouse.path).rejected == 2


def test_a_list_is_cut_and_says_how_many_there_are(assorted: Warehouse) -> None:
    found = dead_letters.list_letters(assorted.path, limit=2)

    assert ([str(letter.id) for letter in found.letters], found.total) == (
        *(["1:1", "1:2"], 6),
    )


@pytest.mark.parametrize("text", ["", "7", "d7", "7y", "-1d", "1.5h", "1d "])
def test_an_age_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(WarehouseError, match="no age; expected 30m, 24h, 7d or 2w"):
        dead_letters.parse_age(text)


# --------------------------------------------------------------------------------------
# Discard, export, show
# --------------------------------------------------------------------------------------


def test_a_discarded_letter_is_kept_with_who_when_and_why(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1"), b"{", b"1"])

    count = dead_letters.discard(
        warehouse.path,
        Selection(reasons=("broken_json",)),
        by="ana",
        why="cut short; sent again",
        now=RETRIED_AT,
    )

    assert count == 1
    assert letters(warehouse) == [(1, 3, "not_an_object", 1)]
    assert warehouse.rows(
        "select load_id, line_number, line, discarded_at, discarded_by, why "
        "from raw.discarded_letter"
    ) == [(1, 2, b"{", RETRIED_AT, "ana", "cut short; sent again")]
    assert_nothing_is_lost(warehouse)
    retry(warehouse)
    assert warehouse.value("select count(*) from raw.dead_letter") == 1


@pytest.mark.parametrize(
    ("by", "why", "message"), [("ana", " ", "--why"), ("\t", "noise", "--by")]
)
def test_nothing_is_discarded_without_a_name_and_a_reason(
    warehouse: Warehouse, by: str, why: str, message: str
) -> None:
    warehouse.land([b"{"])
    with pytest.raises(WarehouseError, match=message):
        dead_letters.discard(warehouse.path, by=by, why=why)
    assert len(letters(warehouse)) == 1


def test_exported_lines_are_those_that_came(
    assorted: Warehouse, tmp_path: Path
) -> None:
    file = tmp_path / "letters.ndjson"

    dead_letters.export(assorted.path, file, Selection(load_ids=(1,)))

    assert file.read_bytes().split(b"\n") == [
        *(as_line(quiz("e1", score=-1)), as_line(ping("e2", version=9))),
        *(as_line(quiz("e3"))[:-1], b"\xff", b""),
    ]
    with pytest.raises(WarehouseError, match="exists"):
        dead_letters.export(assorted.path, file)
    for length in (250, 300):  # too long with what an unfinished file has, and at all
        with pytest.raises(WarehouseError, match=r"cannot be written \(File name too"):
            dead_letters.export(assorted.path, tmp_path / ("x" * length))
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_with_reasons_has_a_json_object_a_line(
    assorted: Warehouse, tmp_path: Path
) -> None:
    file = tmp_path / "letters.ndjson"

    dead_letters.export(assorted.path, file, with_reasons=True)

    [broken, not_text] = [json.loads(text) for text in file.open()][2:4]
    assert (broken["id"], broken["reason"], broken["line"]) == (
        *("1:3", "broken_json", as_line(quiz("e3"))[:-1].decode()),
    )
    assert (not_text["reason"], not_text["line_base64"]) == ("invalid_utf8", "/w==")


def test_a_line_that_is_no_dead_letter_any_more_tells_what_became_of_it(
    warehouse: Warehouse,
) -> None:
    land_before(warehouse, ping("e1"), b"{")
    with before(PING_V2):
        retry(warehouse)
    retry(warehouse)
    dead_letters.discard(warehouse.path, by="ana", why="cut short", now=RETRIED_AT)

    accepted = dead_letters.show(warehouse.path, LetterId(1, 1))
    discarded = dead_letters.show(warehouse.path, LetterId(1, 2))

    assert (accepted.state, accepted.letter) == ("accepted", None)
    assert [(a.load_id, a.outcome) for a in accepted.attempts] == [
        *[(2, "rejected"), (3, "accepted")]
    ]
    assert discarded.state == "discarded"
    assert discarded.letter
    assert (discarded.letter.attempts, len(discarded.attempts)) == (3, 2)
    with pytest.raises(WarehouseError, match="1:3: no such dead letter"):
        dead_letters.show(warehouse.path, LetterId(1, 3))


# --------------------------------------------------------------------------------------
# The law of conservation
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Two files, a retry of letters of the first, one of the second discarded."""
    warehouse = Warehouse(tmp_path_factory.mktemp("settled"))
    land_before(warehouse, ping_v1("e1"), ping("e2"), b"{")
    warehouse.land([b"1", ping_v1("e1")])
    retry(warehouse, Selection(load_ids=(1,)))
    dead_letters.discard(warehouse.path, Selection(load_ids=(2,)), by="ana", why="no")
    assert_nothing_is_lost(warehouse)
    return warehouse


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("delete from raw.lms_event where event_id = 'e1'", [1]),
        ("delete from raw.lms_event where event_id = 'e2'", [3]),
        ("delete from raw.dead_letter where line_number = 3", [1]),
        ("delete from raw.discarded_letter", [2]),
        ("delete from raw.retried_letter where outcome = 'accepted'", [1, 3]),
        ("delete from raw.load where load_id = 2", [2]),
        ("delete from raw.load where load_id = 3", [3]),
        ("update raw.load set duplicate = 2 where load_id = 2", [2]),
        ("insert into raw.dead_letter by name from raw.discarded_letter", [2]),
    ],
)
def test_a_load_that_does_not_add_up_is_found(
    settled: Warehouse, warehouse: Warehouse, damage: str, expected: list[int]
) -> None:
    shutil.copy(settled.path, warehouse.path)
    if "by name" in damage:
        damage = damage.replace(
            "from raw.d",
            "select * exclude (discarded_at, discarded_by, why) from raw.d",
        )
    warehouse.execute(damage)

    with open_for_reading(warehouse.path) as connection:
        broken = conservation.broken_loads(connection)
        assert [load.load_id for load in broken] == expected
        assert conservation.broken_loads(connection, [1, 2, 3]) == broken
        assert conservation.broken_loads(connection, []) == []


def test_in_total_every_line_is_somewhere(warehouse: Warehouse) -> None:
    land_before(warehouse, ping_v1("e1"), ping("e2"), b"{", b"1", ping_v1("e1"))
    retry(warehouse)
    dead_letters.discard(
        warehouse.path, Selection(reasons=("broken_json",)), by="ana", why="no"
    )

    def totals() -> conservation.Totals:
        with open_for_reading(warehouse.path) as connection:
            return conservation.totals(connection)

    assert (totals().lines_read, totals().events, totals().duplicates) == (5, 2, 1)
    assert (totals().dead_letters, totals().discarded) == (1, 1)
    assert totals().unaccounted == 0
    warehouse.execute("delete from raw.lms_event where event_id = 'e2'")
    assert totals().unaccounted == 1


LINES: list[Line] = [
    ping_v1("e1"),
    ping("e2"),
    ping("e2", position=11),
    ping("e3", position=-1),
    quiz("e3"),
    quiz("e4"),
    b"{",
    b"\xff",
    b" ",
]

Step = tuple[str, Any]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("land"), st.lists(st.sampled_from(LINES), max_size=5)),
            st.tuples(
                st.sampled_from(["retry", "discard", "dry run"]),
                st.sampled_from(
                    [
                        Selection(),
                        Selection(load_ids=(1, 3)),
                        Selection(reasons=("unknown_contract",)),
                        Selection(types=("VIDEO_PING",)),
                    ]
                ),
            ),
            st.tuples(st.just("contract"), st.sampled_from([PING_V2, QUIZ_V1])),
        ),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=8, deadline=None)
def test_nothing_is_lost_whatever_is_landed_retried_and_discarded(
    steps: list[Step],
) -> None:
    unwritten = {PING_V2, QUIZ_V1}
    with new_warehouse() as warehouse:
        warehouse.land([])
        for index, (step, what) in enumerate(steps):
            if step == "contract":
                unwritten.discard(what)
                continue
            with before(*unwritten):
                if step == "land":
                    # The number makes each file another one.
                    warehouse.land([*what, b"%d" % index])
                elif step == "discard":
                    dead_letters.discard(warehouse.path, what, by="ana", why="no")
                else:
                    retry(warehouse, what, dry_run=step == "dry run", batch_bytes=100)
            with open_for_reading(warehouse.path) as connection:
                assert conservation.broken_loads(connection) == []
                assert conservation.totals(connection).unaccounted == 0
                assert connection.execute(TWICE).fetchall() == []
                assert connection.execute(MISCOUNTED).fetchall() == []


TWICE = "select event_id from raw.lms_event group by all having count(*) > 1"
MISCOUNTED = """
    select letter.load_id, letter.line_number
    from (
        from raw.dead_letter union all by name from raw.discarded_letter
    ) as letter
    left join raw.retried_letter as retried using (load_id, line_number)
    group by letter.load_id, letter.line_number
    having max(letter.attempts) != 1 + count(retried.outcome)
"""


# --------------------------------------------------------------------------------------
# Killed
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Processes:
    context = get_context("forkserver")
    context.set_forkserver_preload(["test_dead_letters"])
    return Processes(context)


def retry_all(warehouse_path: Path) -> None:
    dead_letters.retry(warehouse_path, now=RETRIED_AT, batch_bytes=20_000)


def with_letters(folder: Path) -> Warehouse:
    folder.mkdir()
    warehouse = Warehouse(folder)
    file = folder.parent / "events.ndjson"
    if not file.exists():
        write_lines(
            file,
            (
                line
                for number in range(150)
                for line in (
                    *(ping(f"e{number}"), ping(f"e{number // 2}")),
                    b"{%d" % number,
                )
            ),
        )
    with before(PING_V2):
        warehouse.land_files(file)
    return warehouse


def apart_from_attempts(warehouse: Warehouse) -> dict[str, Any]:
    """All that does not tell how often it was tried."""
    return {
        "event": warehouse.rows(
            "select event_id, line, file, line_number from raw.lms_event order by all"
        ),
        "dead": warehouse.rows("select line_number from raw.dead_letter order by all"),
        "away": warehouse.rows(
            "select line_number, outcome from raw.retried_letter "
            "where outcome in ('accepted', 'duplicate') order by all"
        ),
    }


@pytest.mark.long
@pytest.mark.parametrize("kills", KILLS)
def test_a_retry_killed_at_any_instant_has_happened_wholly_or_not_at_all(
    tmp_path: Path, processes: Processes, kills: int
) -> None:
    unbroken = with_letters(tmp_path / "unbroken")
    untouched = raw(unbroken)
    cpu_seconds = processes.cpu_seconds(retry_all, unbroken.path)
    expected = raw(unbroken)

    def kill(attempt: int) -> bool:
        warehouse = with_letters(tmp_path / str(attempt))
        instant = instants.uniform(0, cpu_seconds)
        was_at_work = processes.killed(instant, retry_all, warehouse.path)
        assert raw(warehouse) in (untouched, expected)
        retry_all(warehouse.path)
        assert apart_from_attempts(warehouse) == apart_from_attempts(unbroken)
        assert_nothing_is_lost(warehouse)
        return was_at_work

    kill_again_until(kills, kill)


# --------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------


@pytest.fixture
def command(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    return partial(CliRunner().invoke, app)


def test_the_command_lists_shows_exports_retries_and_discards(
    warehouse: Warehouse, command: Any, tmp_path: Path
) -> None:
    land_before(warehouse, ping("e1"), b"{", ping("e2", position=-1))

    def answer(*arguments: str) -> Any:
        result = command(["dead-letters", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    listed = answer("list", "--type", "VIDEO_PING")
    assert (listed["total"], [letter["id"] for letter in listed["letters"]]) == (
        *(2, ["1:1", "1:3"]),
    )
    assert answer("show", "1:2")["letter"]["line"] == "{"
    file = tmp_path / "out.ndjson"
    assert answer("export", str(file), "1:2") == {
        **{"file": str(file), "lines": 1, "truncated": 0}
    }
    assert answer("retry", "--all", "--dry-run")["accepted"] == 1
    assert answer("retry", "--reason", "unknown_contract")["accepted"] == 1
    assert answer("show", "1:1")["state"] == "accepted"
    assert answer("discard", "1:2", "--why", "cut", "--by", "ana") == {
        **{"discarded": 1, "dry_run": False}
    }
    tables = command(["dead-letters", "list"]).stdout
    assert "1 dead letters" in tables
    assert "1:3" in tables
    assert "out_of_range" in tables
    assert "cut" in command(["dead-letters", "show", "1:2"]).stdout


@pytest.mark.parametrize("arguments", [["retry"], ["discard", "--why", "no"]])
def test_all_dead_letters_are_never_meant_by_leaving_out_the_choice(
    warehouse: Warehouse, command: Any, arguments: list[str]
) -> None:
    warehouse.land([b"{"])

    assert command(["dead-letters", *arguments]).exit_code == 2
    assert command(["dead-letters", *arguments, "--all", "1:1"]).exit_code == 2
    assert letters(warehouse) == [(1, 1, "broken_json", 1)]
    assert command(["dead-letters", *arguments, "--all"]).exit_code == 0


def test_the_status_counts_a_retried_line_once(warehouse: Warehouse) -> None:
    from orchestration.status import read_status

    land_before(warehouse, ping("e1"), b"{")
    retry(warehouse)

    state = read_status(Settings.of(warehouse.path))

    assert (state.loads, state.outcomes["lines_read"], state.events) == (1, 2, 1)
    assert isinstance(state.newest_load_at, datetime)
