"""Moving in: what becomes of an LMS export, and what a hostile one can do: nothing."""

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import WarehouseError
from ingest.landing import event_files, quiz_register
from ingest.landing.catalogue import CatalogueClass
from ingest.lms import export as lms_export
from ingest.lms import importer
from ingest.lms.export import open_export
from orchestration import cli
from tests.support.builders import Warehouse, new_warehouse, ping
from tests.support.lms import Lms, move_in, write_dump


@pytest.fixture
def lms(tmp_path: Path) -> Lms:
    (tmp_path / "lms").mkdir()
    lms = Lms(tmp_path / "lms" / "lms.sqlite")
    lms.course()
    lms.add_class()
    return lms


def lines_of(warehouse: Warehouse) -> list[dict[str, Any]]:
    rows = warehouse.rows("select line from raw.lms_event order by line_number")
    return [json.loads(line) for (line,) in rows]


def dead_letters(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.rows(
        "select reason, field from raw.dead_letter order by load_id, line_number"
    )


# --- events --------------------------------------------------------------------------


def test_a_row_becomes_an_event_of_the_newest_contract(
    lms: Lms, warehouse: Warehouse
) -> None:
    payload = {"video_id": "v1", "position_sec": 9.5, "duration_sec": 90, "x": "é"}
    lms.row(
        "VIDEO_PING",
        payload,
        id="e1",
        context_json='{"session_id": "s"}',
        created_at="2026-03-10 10:00:11",
    )
    result = move_in(warehouse, lms.path)
    assert lines_of(warehouse) == [
        {
            "event_id": "e1",
            "type": "VIDEO_PING",
            "schema_version": 2,
            "user_id": "u1",
            "class_id": "c1",
            "course_id": "k1",
            "occurred_at": "2026-03-10T10:00:10.000Z",
            "payload": payload,
            "source": "lms_event",
            "created_at": "2026-03-10T10:00:11Z",
            "context": {"session_id": "s"},
        }
    ]
    assert result.load is not None
    [(file, accepted)] = warehouse.rows(
        "select file, accepted from raw.load where kind = 'events'"
    )
    assert accepted == 1
    assert Path(file).parent == warehouse.folder / "landing" / "events"
    assert Path(file).name.startswith("lms-lms-")


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-03-10T10:00:00.123Z", "2026-03-10 10:00:00.123"),
        ("2026-03-10T12:00:00+02:00", "2026-03-10 10:00:00"),
        ("2026-03-10 10:00:00", "2026-03-10 10:00:00"),
        ("2026-03-10 10:00:00.5", "2026-03-10 10:00:00.5"),
        ("2026-03-10T10:00:00", "2026-03-10 10:00:00"),
        ("2026-03-10 10:00", "2026-03-10 10:00:00"),
        (1773136800, "2026-03-10 10:00:00"),
        (1773136800123, "2026-03-10 10:00:00.123"),
        ("1773136800123", "2026-03-10 10:00:00.123"),
        (1773136800.5, "2026-03-10 10:00:00.5"),
    ],
)
def test_a_time_is_read_as_d1_and_javascript_write_it_in_utc(
    lms: Lms, warehouse: Warehouse, written: Any, moment: str
) -> None:
    lms.ping(occurred_at=written)
    move_in(warehouse, lms.path)
    [same] = warehouse.rows(
        f"select occurred_at = timestamp '{moment}' from raw.lms_event"
    )
    assert same == (True,)


@pytest.mark.parametrize(
    "written", ["yesterday", "10/03/2026 10:00", "2026-03-10", "12", "", "1e99", -5]
)
def test_any_other_time_is_a_dead_letter(
    lms: Lms, warehouse: Warehouse, written: Any
) -> None:
    lms.ping(occurred_at=written)
    move_in(warehouse, lms.path)
    [(reason, field)] = dead_letters(warehouse)
    assert field == "occurred_at"
    assert reason in ("bad_timestamp", "out_of_range")


def test_an_id_that_the_payload_leaves_out_comes_from_the_class(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.add_class("c2", media=[{"type": "QUIZ"}])
    score = {"score": 1, "max_score": 2, "passed": False}
    lms.row("VIDEO_PING", {"position_sec": 1, "duration_sec": 2})
    lms.row("VIDEO_PING", {"video_id": None, "position_sec": 1, "duration_sec": 2})
    for class_id in ("c1", "c2", "unknown"):
        lms.row("QUIZ_SUBMIT", score, class_id=class_id)
    move_in(warehouse, lms.path)
    ids = [{**line["payload"]} for line in lines_of(warehouse)]
    assert [payload.get("video_id") for payload in ids[:2]] == ["c1", "c1"]
    assert [payload.get("quiz_id") for payload in ids[2:]] == [
        "form-1",
        "c2",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("score", "max_score", "mark", "passed"),
    [
        (8, 10, None, True),
        (159, 200, None, True),  # 79.5 %: half is rounded up
        (158.9, 200, None, False),
        (7, 10, None, False),
        (7, 10, 70, True),
        (7, 10, "70", True),
        (7, 10, 0, False),  # no mark, as the LMS reads it
        (7, 10, "high", False),
        (157, 200, 79, True),  # 78.5 %: Python would round to the even 78
    ],
)
def test_a_missing_passed_is_the_rounded_percentage_at_the_pass_mark(
    lms: Lms,
    warehouse: Warehouse,
    score: float,
    max_score: float,
    mark: Any,
    passed: bool,
) -> None:
    lms.add_class("c2", media=[{"type": "QUIZ", "pass_threshold": mark}])
    lms.row("QUIZ_SUBMIT", {"score": score, "max_score": max_score}, class_id="c2")
    move_in(warehouse, lms.path)
    [line] = lines_of(warehouse)
    assert line["payload"]["passed"] is passed


def test_the_quiz_register_goes_before_the_mark_of_the_class(
    lms: Lms, warehouse: Warehouse
) -> None:
    register = warehouse.folder / "register.csv"
    register.write_text(
        "form_id,class_id,score_field,max_score,pass_mark,keep_free_text\n"
        "form-1,,score,10,50,no\n"
    )
    lms.row("QUIZ_SUBMIT", {"score": 5, "max_score": 10})
    move_in(warehouse, lms.path, register=quiz_register.read(register))
    [line] = lines_of(warehouse)
    assert line["payload"]["passed"] is True


def test_a_class_that_changes_its_quiz_does_not_change_events_that_were_landed(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.row("QUIZ_SUBMIT", {"score": 7, "max_score": 10})
    move_in(warehouse, lms.path)
    media = [{"type": "QUIZ", "tally_form_id": "form-2", "pass_threshold": 60}]
    lms.db.execute("update lms_class set media_json = ?", [json.dumps(media)])
    again = move_in(warehouse, lms.path)
    assert (again.known, again.load) == (1, None)


def test_types_without_a_contract_are_set_aside_once_and_are_no_errors(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.row("VIDEO_PLAY", {"position_sec": 3})
    lms.row("VIDEO_PAUSE", {})
    lms.row("VIDEO_PLAY", {})
    first, again = (move_in(warehouse, lms.path) for _ in range(2))
    assert first.set_aside == {"VIDEO_PAUSE": 1, "VIDEO_PLAY": 2}
    assert first.set_aside == again.set_aside
    assert (first.newly_set_aside, again.newly_set_aside) == (3, 0)
    assert (first.load, dead_letters(warehouse)) == (None, [])
    [(line, file)] = warehouse.rows(
        "select line, file from raw.event_without_contract where event_id = 'evt_1'"
    )
    assert json.loads(line)["payload"] == {"position_sec": 3}
    assert file == str(lms.path)


def test_what_an_older_version_set_aside_is_carried_over(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.row("VIDEO_PLAY", {})
    move_in(warehouse, lms.path)
    warehouse.execute(
        "alter table raw.event_without_contract rename to set_aside_event; "
        "drop table raw.format"
    )
    assert warehouse.rows("select type from raw.event_without_contract") == [
        ("VIDEO_PLAY",)
    ]
    assert move_in(warehouse, lms.path).newly_set_aside == 0


# --- bad rows ------------------------------------------------------------------------


def test_a_bad_row_is_a_dead_letter_and_stops_no_other(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.row("VIDEO_PING", "{broken")
    lms.row("VIDEO_PING", '{}, "user_id": "someone else"')
    lms.row("VIDEO_PING", '{"position_sec": NaN, "duration_sec": 1}')
    lms.row("VIDEO_PING", "[1]")
    lms.row("VIDEO_PING", {}, class_id=None)
    lms.row("QUIZ_SUBMIT", {"score": 11, "max_score": 10})
    lms.row("QUIZ_SUBMIT", {"score": "7", "max_score": 10})
    lms.row("VIDEO_PING", {}, user_id=b"\xff\x00")
    lms.ping()
    result = move_in(warehouse, lms.path)
    assert result.load is not None
    assert (result.load.lines_read, result.load.accepted) == (9, 1)
    assert dead_letters(warehouse) == [
        ("wrong_type", "payload"),
        ("wrong_type", "payload"),
        ("wrong_type", "payload"),
        ("wrong_type", "payload"),
        ("missing_field", "class_id"),
        ("out_of_range", "payload.score"),
        ("wrong_type", "payload.score"),
        ("wrong_type", "user_id"),
    ]


def test_text_that_is_no_utf8_is_a_dead_letter_of_its_row_alone(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.db.execute(
        "insert into lms_event (id, type, user_id, class_id, occurred_at, payload_json)"
        " values ('e1', 'VIDEO_PING', cast(x'75ff' as text), 'c1', 'x', '{}')"
    )
    lms.ping()
    result = move_in(warehouse, lms.path)
    assert result.load is not None
    assert result.load.accepted == 1
    assert dead_letters(warehouse) == [("invalid_utf8", None)]


def test_odd_ids_and_texts_come_through_a_dump_as_they_are(
    lms: Lms, warehouse: Warehouse
) -> None:
    odd = "a'b;\"c\n--é🎓\u2028 " + "x" * 200
    lms.ping(user_id=odd, class_id=odd, id=odd)
    lms.add_class(odd, name=odd)
    move_in(warehouse, lms.dump())
    [line] = lines_of(warehouse)
    assert (line["event_id"], line["user_id"], line["class_id"]) == (odd, odd, odd)
    assert (odd,) in warehouse.rows("select class_id from raw.catalogue")


# --- again, and newer ----------------------------------------------------------------


def test_a_newer_export_lands_only_what_is_new(
    lms: Lms, warehouse: Warehouse, tmp_path: Path
) -> None:
    for position in range(5):
        lms.ping(position)
    lms.row("VIDEO_PING", "{broken")
    first = move_in(warehouse, lms.dump())
    again = move_in(warehouse, lms.path)
    assert first.load is not None
    assert (first.load.accepted, first.load.rejected) == (5, 1)
    assert (again.events, again.known, again.load) == (6, 6, None)
    lms.ping(50)
    newer = move_in(warehouse, lms.dump())
    assert newer.load is not None
    assert (newer.known, newer.load.lines_read, newer.load.accepted) == (6, 1, 1)
    assert len(dead_letters(warehouse)) == 1
    assert warehouse.value("select count(*) from raw.lms_event") == 6
    assert not list((tmp_path / "landing").rglob(".*"))


def test_a_dead_letter_that_was_discarded_stays_so(
    lms: Lms, warehouse: Warehouse
) -> None:
    from ingest.landing import dead_letters as letters

    lms.row("VIDEO_PING", "{broken")
    move_in(warehouse, lms.path)
    letters.discard(warehouse.path, letters.Selection(), by="me", why="broken")
    assert move_in(warehouse, lms.path).load is None


def test_an_event_that_the_lms_changed_is_one_conflict(
    lms: Lms, warehouse: Warehouse
) -> None:
    event_id = lms.ping(10)
    move_in(warehouse, lms.path)
    payload = json.dumps({"position_sec": 99, "duration_sec": 100})
    lms.db.execute("update lms_event set payload_json = ?", [payload])
    for expected in (1, 0):
        load = move_in(warehouse, lms.path).load
        assert (load.conflict if load else 0) == expected
    assert warehouse.rows("select event_id from raw.dead_letter") == [(event_id,)]
    [line] = lines_of(warehouse)
    assert line["payload"]["position_sec"] == 10


def test_an_event_that_came_by_another_door_is_a_duplicate(
    lms: Lms, warehouse: Warehouse
) -> None:
    event_id = lms.ping(10)
    same = ping(
        event_id, payload={"video_id": "c1"}, course="k1", at="2026-03-10T10:00:10.000Z"
    )
    warehouse.land([same])
    load = move_in(warehouse, lms.path).load
    assert load is not None
    assert (load.accepted, load.duplicate, load.conflict) == (0, 1, 0)


def test_an_erased_learner_does_not_come_back(
    lms: Lms, warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.erasure.erase import Places, erase

    monkeypatch.setenv("LMS_LANDING", str(tmp_path / "landing"))
    lms.ping(user_id="gone-for-good")
    lms.row("VIDEO_PLAY", {}, user_id="gone-for-good")
    move_in(warehouse, lms.path)
    places = Places(tmp_path / "outbox", of_others=(tmp_path / "landing",))
    erased = erase(warehouse.path, ["gone-for-good"], places, reason="asked for it")
    assert erased.rows["raw.event_without_contract"] == 1
    [left] = [name for name in erased.left if name.endswith(".ndjson")]
    Path(left).unlink()
    lms.row("VIDEO_PLAY", {}, user_id="gone-for-good")
    lms.ping(user_id="another")
    again = move_in(warehouse, lms.path)
    assert (again.erased, again.set_aside) == (3, {})
    assert again.load is not None
    assert again.load.accepted == 1
    for file in (tmp_path / "landing" / "events").iterdir():
        assert b"gone-for-good" not in file.read_bytes()


def test_an_import_that_was_killed_before_landing_is_landed_by_the_next(
    lms: Lms, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    lms.ping()
    with monkeypatch.context() as patch:
        patch.setattr(event_files, "land", _killed)
        with pytest.raises(KeyboardInterrupt):
            move_in(warehouse, lms.path)
    load = move_in(warehouse, lms.path).load
    assert load is not None
    assert load.accepted == 1
    events = warehouse.folder / "landing" / "events"
    assert len(list(events.iterdir())) == 1


def _killed(*_arguments: Any, **_options: Any) -> None:
    raise KeyboardInterrupt


# --- a dump and a database -----------------------------------------------------------

_VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8).filter(lambda text: "\0" not in text),
    st.binary(max_size=4),
)
_PAYLOADS = st.one_of(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.dictionaries(
            st.sampled_from(["position_sec", "duration_sec", "score", "passed", "x"]),
            inner,
        ),
        max_leaves=5,
    ).map(json.dumps),
    st.just('{"position_sec": 3.5, "duration_sec": 7}'),
    st.just('{"score": 3, "max_score": 4}'),
)
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "event_type": st.sampled_from(["VIDEO_PING", "QUIZ_SUBMIT", "VIDEO_PLAY"]),
            "payload": _PAYLOADS,
        },
        optional={
            "user_id": _VALUES.filter(lambda value: value is not None),
            "class_id": _VALUES,
            "course_id": _VALUES,
            "occurred_at": _VALUES.filter(lambda value: value is not None),
            "context_json": _VALUES,
        },
    ),
    max_size=40,
)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(_ROWS)
def test_whatever_rows_hold_a_dump_equals_its_database_and_no_row_is_lost(
    rows: list[dict[str, Any]],
) -> None:
    with new_warehouse() as one, new_warehouse() as other:
        lms = Lms(one.folder / "lms.sqlite")
        lms.course()
        lms.add_class()
        for row in rows:
            lms.row(row.pop("event_type"), row.pop("payload"), **row)
        from_database = move_in(one, lms.path)
        from_dump = move_in(other, lms.dump())
        found = []
        for warehouse, result in ((one, from_database), (other, from_dump)):
            load = result.load
            assert not result.failures
            landed = load.lines_read if load else 0
            assert landed + sum(result.set_aside.values()) == len(rows)
            again = move_in(warehouse, lms.path)
            assert (again.load, again.newly_set_aside) == (None, 0)
            found.append(
                [
                    warehouse.rows(f"select {columns} from raw.{table} order by all")
                    for table, columns in (
                        ("lms_event", "line, occurred_at"),
                        ("dead_letter", "line, reason"),
                        ("event_without_contract", "line"),
                        ("catalogue", "* exclude (load_id)"),
                    )
                ]
            )
        assert found[0] == found[1]


def test_a_database_is_never_changed_and_nothing_is_left_beside_it(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.ping()
    lms.db.close()
    before = _state(lms.path.parent)
    move_in(warehouse, lms.path)
    assert _state(lms.path.parent) == before


def test_what_is_only_in_the_log_of_a_database_is_read_and_left_there(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.db.execute("pragma journal_mode = wal")
    lms.ping()
    before = _state(lms.path.parent)
    assert any(name.endswith("-wal") for name in before)
    result = move_in(warehouse, lms.path)
    assert result.events == 1
    assert _state(lms.path.parent) == before


def _state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.iterdir()
        if not file.name.endswith("-shm")  # the writer's own, in use
    }


# --- the catalogue -------------------------------------------------------------------


def catalogue_of(lms: Lms) -> list[CatalogueClass]:
    with open_export(lms.path) as export:
        return importer.catalogue_rows(importer.classes(export))


@pytest.mark.parametrize(
    ("media", "has_video", "has_quiz"),
    [
        ([{"type": "VIDEO"}, {"type": "QUIZ"}], 1, 1),
        ([{"type": "video"}], 1, 0),
        ([{"type": "DOCUMENT", "url": "x"}, {"type": "WEB"}], 0, 0),
        ([], 0, 0),
        (None, 0, 0),
        ("", 0, 0),
        ("not json", 0, 0),
        ({"type": "QUIZ"}, 0, 1),
        ([None, 3, "VIDEO", {"url": "x"}, {"type": None}], 0, 0),
    ],
)
def test_a_class_asks_for_what_its_media_are(
    lms: Lms, media: Any, has_video: int, has_quiz: int
) -> None:
    lms.add_class("c2", media=media)
    [row] = [row for row in catalogue_of(lms) if row.class_id == "c2"]
    assert (row.has_video, row.has_quiz) == (has_video, has_quiz)


@pytest.mark.parametrize(
    "forms",
    [
        {"tally_form_id": "wkPz0d"},
        {"tally_form_ids": {"vi": "nPrj8V", "en": "wkPz0d"}},
        {"tally_form_id": "wkPz0d", "tally_form_ids": {"en": "eqOGYl"}},
    ],
)
def test_a_page_with_a_tally_form_is_a_quiz_with_its_pass_mark(
    lms: Lms, warehouse: Warehouse, forms: dict[str, Any]
) -> None:
    web = {"type": "WEB", "url": "https://tally.so/r/x", "pass_threshold": 60, **forms}
    lms.db.execute("delete from lms_class")
    lms.add_class(media=[{"type": "VIDEO"}, web])
    lms.row("QUIZ_SUBMIT", {"score": 7, "max_score": 10})
    move_in(warehouse, lms.path)
    assert warehouse.rows("select has_video, has_quiz from raw.catalogue") == [(1, 1)]
    assert warehouse.rows(
        "select payload ->> 'quiz_id', payload ->> 'passed' from raw.lms_event"
    ) == [("wkPz0d", "true")]


def test_the_history_that_no_contract_takes_is_counted(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.db.execute("create table crm_event (id text, type text, user_id text)")
    for row in ("VIDEO_VIEW", "VIDEO_VIEW", "FORM", None):
        lms.db.execute("insert into crm_event values ('x', ?, 'u1')", [row])
    for file in (lms.path, lms.dump()):
        assert move_in(warehouse, file).left == {"": 1, "FORM": 1, "VIDEO_VIEW": 2}


def test_sections_are_no_classes_to_complete(lms: Lms, warehouse: Warehouse) -> None:
    lms.add_class("s1", kind="SECTION", order=0)
    lms.add_class("c2", parent="s1", order=2, name="Inside")
    result = move_in(warehouse, lms.path)
    assert result.sections == 1
    assert warehouse.rows(
        "select class_id, title, position from raw.catalogue order by all"
    ) == [("c1", "A class", 1), ("c2", "Inside", 2)]


def test_lessons_that_each_section_counts_anew_stand_in_the_order_of_sections(
    lms: Lms,
) -> None:
    lms.db.execute("delete from lms_class")
    for section, order in (("late", 2), ("early", 1)):
        lms.add_class(section, kind="SECTION", order=order)
        for number in (2, 1):
            lms.add_class(f"{section}-{number}", parent=section, order=number)
    rows = catalogue_of(lms)
    assert [(row.class_id, row.position) for row in rows] == [
        ("early-1", 1),
        ("early-2", 2),
        ("late-1", 3),
        ("late-2", 4),
    ]


def test_a_ring_of_parents_ends_somewhere(lms: Lms) -> None:
    lms.db.execute("delete from lms_class")
    lms.add_class("a", parent="b")
    lms.add_class("b", parent="a")
    lms.add_class("c", parent="nowhere")
    assert {row.class_id for row in catalogue_of(lms)} == {"a", "b", "c"}


def test_an_export_without_kinds_of_node_has_lessons_only(lms: Lms) -> None:
    lms.db.executescript(
        "drop table lms_class; create table lms_class "
        "(id, course_id, name, sys_order_index, media_json);"
        "insert into lms_class values ('c1', 'k1', null, null, null)"
    )
    [row] = catalogue_of(lms)
    assert row == CatalogueClass("c1", "k1", "", 0, 0, 0)


def test_a_snapshot_lands_only_when_the_catalogue_changed(
    lms: Lms, warehouse: Warehouse
) -> None:
    first, same = (move_in(warehouse, lms.path).catalogue for _ in range(2))
    lms.add_class("c2", order=2)
    other = move_in(warehouse, lms.path).catalogue
    assert first is not None
    assert same is not None
    assert other is not None
    assert [each.known for each in (first, same, other)] == [False, True, False]
    assert same.load_id == first.load_id
    assert other.classes == 2


def test_an_export_without_classes_says_nothing_of_the_catalogue(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.ping()
    lms.db.execute("drop table lms_class")
    result = move_in(warehouse, lms.path)
    assert (result.catalogue, result.failures) == (None, ())
    assert result.load is not None


def test_a_wrong_class_is_named_and_holds_up_no_event(
    lms: Lms, warehouse: Warehouse
) -> None:
    lms.ping()
    lms.add_class("x" * 257)
    result = move_in(warehouse, lms.path)
    [failure] = result.failures
    assert str(lms.path) in failure
    assert "class_id: expected 1 to 256 characters" in failure
    assert result.load is not None
    assert result.load.accepted == 1
    assert not list((warehouse.folder / "landing" / "catalogue").iterdir())


# --- hostile dumps -------------------------------------------------------------------

_EVENT_TABLE = (
    "CREATE TABLE lms_event (id, type, user_id, course_id, class_id, occurred_at, "
    "payload_json, context_json, created_at);\n"
)


def dump_of(folder: Path, *statements: str) -> Path:
    path = folder / "dump.sql"
    path.write_text(_EVENT_TABLE + "\n".join(statements), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH 'stolen.db' AS other;",
        "VACUUM INTO 'stolen.db';",
        "SELECT load_extension('evil.so');",
        "INSERT INTO lms_event (id) VALUES (load_extension('evil.so'));",
        "PRAGMA writable_schema = ON;",
        "PRAGMA journal_mode = WAL;",
        "PRAGMA temp_store_directory = '/';",
        "UPDATE sqlite_master SET sql = 'x';",
        "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 0, 'x');",
        "DELETE FROM lms_event;",
        "UPDATE lms_event SET id = 1;",
        "DROP TABLE lms_event;",
        "ALTER TABLE lms_event ADD COLUMN x;",
        "CREATE VIRTUAL TABLE x USING fts5(y);",
        "CREATE TEMP TABLE x (y);",
        "CREATE TEMP TRIGGER x AFTER INSERT ON lms_event BEGIN SELECT 1; END;",
        "CREATE TABLE x AS SELECT 1;",
        "INSERT INTO lms_event SELECT * FROM lms_event;",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "INSERT INTO lms_event (id) SELECT i FROM n;",
        "INSERT INTO lms_event (id) VALUES (randomblob(1000000000));",
        "INSERT INTO lms_event (id) VALUES (printf('%.*c', 1000000000, 'x'));",
        "INSERT INTO lms_event (id) VALUES ((SELECT group_concat(name) FROM x));",
        "CREATE TABLE p (a PRIMARY KEY); INSERT INTO p VALUES (1) "
        "ON CONFLICT (a) DO UPDATE SET a = 2;",
        "INSERT INTO lms_event (id) VALUES (1); ATTACH 'stolen.db' AS other;",
        "SAVEPOINT x;",
        "DETACH main;",
        "EXPLAIN SELECT 1;",
        ".shell touch stolen.db",
        ".read /etc/passwd",
    ],
)
def test_a_hostile_dump_can_do_nothing(
    warehouse: Warehouse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = dump_of(tmp_path, statement)
    with pytest.raises(WarehouseError) as caught:
        move_in(warehouse, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line 2: ")
    assert "\n" not in message
    assert [file.name for file in tmp_path.iterdir()] == ["dump.sql"]


def test_what_no_answer_depends_on_is_skipped_and_never_runs(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    path = dump_of(
        tmp_path,
        "BEGIN TRANSACTION;",
        "PRAGMA foreign_keys=OFF;",
        "CREATE TRIGGER t BEFORE INSERT ON lms_event BEGIN",
        "  DELETE FROM lms_event;",
        "  SELECT raise(FAIL, 'fired');",
        "END;",
        "CREATE INDEX i ON lms_event(id);",
        "CREATE UNIQUE INDEX u ON lms_event(type);",
        "INSERT INTO lms_event VALUES ('e1', 'A', 'u', 'k', 'c', 'x', '{}', NULL, 1);",
        "INSERT INTO lms_event VALUES ('e2', 'A', 'u', 'k', 'c', 'x', '{}', NULL, 1);",
        "CREATE VIEW bomb AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n) SELECT sum(i) FROM n;",
        "CREATE TABLE q (id INTEGER PRIMARY KEY AUTOINCREMENT);",
        "DELETE FROM sqlite_sequence;",
        "INSERT INTO sqlite_sequence VALUES ('q', 7);",
        "ANALYZE sqlite_schema;",
        "INSERT INTO sqlite_stat1 VALUES ('q', NULL, '7');",
        "COMMIT;",
    )
    with open_export(path) as export:
        assert [row[0] for row in export.rows("select id from lms_event")] == [
            "e1",
            "e2",
        ]
        assert set(
            export.rows("select name from sqlite_master where type != 'table'")
        ) == {("bomb",)}
    assert move_in(warehouse, path).set_aside == {"A": 2}


def test_a_dump_may_speak_of_sequences_that_no_table_has(tmp_path: Path) -> None:
    statements = (
        "DELETE FROM sqlite_sequence;",
        "INSERT INTO sqlite_sequence VALUES ('gone', 7);",
    )
    with open_export(dump_of(tmp_path, *statements)) as export:
        assert export.has("lms_event")


def test_a_view_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lms_export, "LONGEST_QUERY_SEC", 0.3)
    path = dump_of(
        tmp_path,
        "CREATE VIEW v_user_progress AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n) SELECT count(*) AS user_id FROM n;",
    )
    with open_export(path) as export, pytest.raises(WarehouseError, match=r"0\.3 s"):
        list(export.rows("select * from v_user_progress"))


def test_an_open_export_can_only_be_read(lms: Lms) -> None:
    for path in (lms.path, lms.dump()):
        with open_export(path) as export:
            for statement in (
                "delete from lms_event",
                "attach 'x.db' as x",
                "pragma journal_mode = wal",
                "select load_extension('x')",
            ):
                with pytest.raises(WarehouseError):
                    list(export.rows(statement))


def test_a_dump_whose_rows_outgrow_it_is_given_up(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lms_export, "_SPARE_BYTES", 1024 * 1024)
    long = "replace(" * 4 + f"'{'a' * 40}'" + f", 'a', '{'a' * 20}')" * 4
    path = dump_of(tmp_path, *[f"INSERT INTO lms_event (id) VALUES ({long});"] * 3)
    with pytest.raises(WarehouseError, match="far more room"):
        move_in(warehouse, path)


def test_a_long_statement_is_not_read_over_and_over(tmp_path: Path) -> None:
    long = ";\n" * 400_000
    path = dump_of(tmp_path, f"INSERT INTO lms_event (id) VALUES ('{long}');")
    with open_export(path) as export:
        [(text,)] = export.rows("select id from lms_event")
    assert text == long


# --- files that are none -------------------------------------------------------------


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text(""), "no table lms_event"),
        (lambda path: path.write_text("CREATE TABLE a (b);"), "no table lms_event"),
        (
            lambda path: path.write_text("CREATE TABLE lms_event (id);"),
            "no column type",
        ),
        (lambda path: path.write_bytes(b"\x89PNG\xff\n;"), "not UTF-8"),
        (lambda path: path.write_bytes(b"CREATE TABLE a\0;"), "not SQL"),
        (lambda path: path.write_text("hello"), "not SQL"),
        (lambda path: path.write_bytes(b"SQLite format 3\0junk"), "damaged"),
        (_cut, "not SQL"),
    ],
)
def test_a_file_that_is_no_export_is_one_clear_line(
    lms: Lms, warehouse: Warehouse, spoil: Callable[[Path], None], message: str
) -> None:
    lms.db.executescript("drop view v_event_count; drop index idx_lms_event_user")
    lms.ping()
    lms.db.execute("drop table v_user_progress")
    path = lms.dump()
    spoil(path)
    with pytest.raises(WarehouseError) as caught:
        move_in(warehouse, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the command and the job ---------------------------------------------------------


def test_the_command_says_what_became_of_every_event(
    lms: Lms,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LMS_WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    monkeypatch.setenv("LMS_LANDING", str(tmp_path / "landing"))
    lms.ping()
    lms.row("VIDEO_PING", "{broken")
    lms.row("VIDEO_PLAY", {})

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["warehouse", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return (int(exit_.value.code or 0), *capsys.readouterr())

    code, printed, _ = run("import-lms", str(lms.dump()))
    assert code == 0
    assert "wrong_type" in printed
    assert "VIDEO_PLAY" in printed
    code, printed, _ = run("import-lms", str(lms.path), "--json")
    machine = json.loads(printed)
    assert (machine["events"], machine["known"], machine["load"]) == (3, 2, None)
    (tmp_path / "bad.sql").write_text("ATTACH 'x' AS y;")
    code, printed, error = run("import-lms", str(tmp_path / "bad.sql"))
    assert (code, printed) == (1, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "ATTACH x is refused" in error


def test_the_job_imports_the_file_of_its_config(
    dbt: None, lms: Lms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.definitions import defs

    monkeypatch.setenv("LMS_WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    monkeypatch.setenv("LMS_LANDING", str(tmp_path / "landing"))
    lms.ping()

    def run(file: Path) -> bool:
        config = {"ops": {"import_lms_export": {"config": {"file": str(file)}}}}
        result = defs.resolve_job_def("import_lms").execute_in_process(
            run_config=config, raise_on_error=False
        )
        return result.success

    assert run(lms.dump())
    assert Warehouse(tmp_path).value("select count(*) from raw.lms_event") == 1
    assert not run(tmp_path / "nothing.sql")


def test_write_dump_is_a_dump_that_sqlite_itself_reads_back(lms: Lms) -> None:
    lms.ping(user_id="o'neil\n\r'")
    path = write_dump(lms.path, lms.path.with_suffix(".sql"))
    again = sqlite3.connect(":memory:")
    again.executescript(path.read_text(encoding="utf-8"))
    query = "select * from lms_event"
    assert again.execute(query).fetchall() == [
        tuple(row) for row in lms.db.execute(query)
    ]
