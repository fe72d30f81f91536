"""Publishing: once each, in order, whoever is down, and a contract that keeps.

Most tests publish signals that they write themselves; what dbt makes of events is in
one test at the end. The receivers are real, on loopback.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from random import Random
from unittest import mock
from urllib.parse import unquote

import duckdb
import jsonschema
import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import WarehouseError
from ingest.settings import Settings
from ingest.store import database
from orchestration.outbox import delivery, integration_events, outbox, receivers
from orchestration.outbox.integration_events import CONTRACTS, Data, Fact, Format
from orchestration.outbox.outbox import Batch
from orchestration.outbox.receivers import NotDelivered, Target, parse_receivers
from orchestration.outbox.settings import PublishSettings
from tests.support.builders import Class, Warehouse, ping, quiz
from tests.support.kills import KILLS
from tests.support.publishing import (
    AT,
    GOLDEN_FACTS,
    Answer,
    Json,
    Receiver,
    Signal,
    as_tables,
    derive,
    files,
    id_of,
    ids,
    published,
    receiving,
    signals,
    to,
    wait_until,
)

WAREHOUSE = Path(sys.executable).with_name("warehouse")
GOLDEN = Path(__file__).parents[2] / "fixtures" / "integration_events"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "_back_off", tenacity.wait_none())


def state_of(warehouse: Warehouse, url: str) -> tuple[int, str | None]:
    """Where a receiver is, and the last trouble with it."""
    [row] = warehouse.rows(
        "select sequence, last_error from outbox.watermark "
        f"where target = 'cloudevents {url}'"
    )
    return row


# --- the contract ------------------------------------------------------------------


def golden_file(fact: Fact, event_format: Format) -> Path:
    return (
        GOLDEN
        / f"{fact.signal_type.lower()}_v{fact.contract_version}.{event_format}.json"
    )


@pytest.mark.parametrize("event_format", integration_events.FORMATS)
@pytest.mark.parametrize("fact", GOLDEN_FACTS, ids=lambda fact: fact.signal_type)
def test_what_was_published_once_is_published_so_for_ever(
    fact: Fact, event_format: Format
) -> None:
    [line] = integration_events.as_lines(event_format, [fact])

    assert line + b"\n" == golden_file(fact, event_format).read_bytes()


@pytest.mark.parametrize("fact", GOLDEN_FACTS, ids=lambda fact: fact.signal_type)
def test_an_event_keeps_the_schema_that_it_names(fact: Fact) -> None:
    event = json.loads(golden_file(fact, "cloudevents").read_bytes())
    contract = integration_events.contract_of(fact)
    schema = json.loads(integration_events.schema_file(contract).read_text())

    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.FormatChecker()
    )
    check.validate(event)
    assert event["dataschema"] == f"{schema['$id']}#/properties/data"
    for name in event:
        assert list(check.iter_errors({k: v for k, v in event.items() if k != name}))


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1).filter(str.strip))
def test_a_subject_is_text_that_cloudevents_allows_and_one_learner(user: str) -> None:
    with suppress(UnicodeEncodeError):
        user.encode()
        fact = replace(GOLDEN_FACTS[0], user_id=user)
        event = json.loads(integration_events.as_lines("cloudevents", [fact])[0])

        assert event["subject"] == event["partitionkey"]
        assert unquote(event["subject"]) == event["data"]["user_id"] == user
        assert not re.search(
            "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", event["subject"]
        )


def test_the_schemas_that_lie_there_are_those_of_the_classes() -> None:
    for path, text in integration_events.generated_files().items():
        assert path.read_text() == text, f"{path.name}: run warehouse contracts --write"


class _Course(Data, frozen=True, kw_only=True):
    """A class beside the published one; each test breaks it in another way."""

    SIGNAL = "COURSE_COMPLETED"
    VERSION = 1


class WithoutTheCourse(_Course, frozen=True, kw_only=True):
    """It says less."""


class WithAnotherName(_Course, frozen=True, kw_only=True):
    """It calls the course otherwise."""

    course: str


class WithANumber(_Course, frozen=True, kw_only=True):
    """Its course is a number."""

    course_id: int


class WithAnOptionalCourse(_Course, frozen=True, kw_only=True):
    """Its course may be left out."""

    course_id: integration_events.Identifier = ""


class WithMore(_Course, frozen=True, kw_only=True):
    """It says more."""

    course_id: integration_events.Identifier
    title: str | None = None


class TheNextVersion(_Course, frozen=True, kw_only=True):
    """It may do as it likes."""

    VERSION = 2

    course: str


@pytest.mark.parametrize(
    ("contract", "broken"),
    [
        (WithoutTheCourse, "course_id: removed"),
        (WithAnotherName, "course_id: removed"),
        (WithANumber, "course_id: type was 'string', is 'integer'"),
        (WithAnOptionalCourse, "course_id: no longer always there"),
    ],
)
def test_a_published_field_is_not_broken_without_a_new_version(
    contract: type[Data], broken: str
) -> None:
    with pytest.raises(WarehouseError, match=re.escape(broken)) as error:
        integration_events.generated_files([contract])
    assert "next VERSION" in str(error.value)


def test_a_field_may_come_and_a_new_version_may_do_anything() -> None:
    integration_events.generated_files([WithMore])
    integration_events.generated_files([*CONTRACTS, TheNextVersion])
    newest = integration_events.newest([*CONTRACTS, TheNextVersion])
    assert newest["COURSE_COMPLETED"] is TheNextVersion


def test_every_signal_type_is_published() -> None:
    seed = Path(__file__).parents[3] / "dbt_project/seeds/signals/signal_type.csv"
    types = [line.split(",")[0] for line in seed.read_text().splitlines()[1:]]

    assert list(integration_events.newest()) == types


# --- the outbox: once each, in order -----------------------------------------------


def test_a_signal_is_published_once_however_often_one_publishes(
    warehouse: Warehouse,
) -> None:
    derive(warehouse, signals(7))
    first = delivery.publish(warehouse.path, to(warehouse))
    derive(warehouse, signals(12))
    second = delivery.publish(warehouse.path, to(warehouse))
    third = delivery.publish(warehouse.path, to(warehouse))

    assert [first.enqueued, second.enqueued, third.enqueued] == [7, 5, 0]
    assert ids(published(warehouse)) == [id_of(s.signal_id) for s in signals(12)]
    assert list(files(warehouse)) == [
        "000000000001-000000000005.ndjson",
        "000000000006-000000000007.ndjson",
        "000000000008-000000000012.ndjson",
    ]


def test_at_one_moment_a_step_follows_its_parts_and_a_course_its_steps(
    warehouse: Warehouse,
) -> None:
    derive(
        warehouse,
        [
            Signal("a", "COURSE_COMPLETED"),
            Signal("b", "STEP_COMPLETED"),
            Signal("d", "QUIZ_PASSED"),
            Signal("c", "QUIZ_PASSED"),
            Signal("e", "VIDEO_COMPLETED"),
            Signal("z", "STEP_COMPLETED", occurred_at=AT - timedelta(seconds=1)),
        ],
    )
    delivery.publish(warehouse.path, to(warehouse))

    order = ids(published(warehouse))
    assert order == [id_of(signal_id) for signal_id in "zecdba"]


def test_what_was_published_stays_whatever_becomes_of_the_signal(
    warehouse: Warehouse,
) -> None:
    [signal, other] = signals(2)
    derive(warehouse, [signal, other])
    delivery.publish(warehouse.path, to(warehouse))
    before = files(warehouse)

    earlier = replace(signal, occurred_at=AT - timedelta(days=1))
    for state in ([earlier, other], [other], [signal, other]):
        derive(warehouse, state)
        assert delivery.publish(warehouse.path, to(warehouse)).enqueued == 0

    assert files(warehouse) == before


def test_a_signal_that_is_there_twice_stops_publishing(warehouse: Warehouse) -> None:
    derive(warehouse, [*signals(3), signals(1)[0]])

    with pytest.raises(WarehouseError, match="signal_id twice; nothing was published"):
        delivery.publish(warehouse.path, to(warehouse))
    assert warehouse.rows("from outbox.integration_event") == []


def test_erasing_rows_shifts_no_number_and_stops_no_target(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    """What `warehouse erase` may do to the outbox: delete a learner's rows."""
    derive(warehouse, signals(10))
    outbox.enqueue(warehouse.path, base_url="https://lms.example", batch_events=5)
    warehouse.execute(
        "delete from outbox.integration_event where user_id = 'u0' or sequence > 5;"
        "delete from signals.lms_signal where user_id = 'u0' or occurred_at >= "
        f"timestamp '{AT + timedelta(seconds=5)}'"
    )
    derive(warehouse, [*signals(5)[1:3], *signals(1, first=20)])
    delivery.publish(warehouse.path, to(warehouse, receiver.url))

    assert [event["sequence"][-2:] for event in receiver.stored] == [
        "02",
        "03",
        "05",
        "11",
    ]
    assert state_of(warehouse, receiver.url) == (11, None)
    assert len(receiver.requests) == 2, "a batch of which nothing is left is not sent"


def test_an_enqueueing_that_is_killed_leaves_nothing(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive(warehouse, signals(7))
    with monkeypatch.context() as patch:
        # Asked for between the events and their batches.
        patch.setattr(database, "utc_now", mock.Mock(side_effect=Killed))
        with suppress(Killed):
            delivery.publish(warehouse.path, to(warehouse))

    derive(warehouse, signals(9))
    assert delivery.publish(warehouse.path, to(warehouse)).enqueued == 9
    assert ids(published(warehouse)) == [id_of(s.signal_id) for s in signals(9)]


class Killed(BaseException):
    """Ends a call where a kill would."""


FAULTS = ["none", "killed before", "stored, then killed", "refused", "stored, then 500"]
MOMENTS = st.integers(0, 3).map(lambda minutes: AT + timedelta(minutes=minutes))
STATES = st.dictionaries(
    st.tuples(
        st.sampled_from(["u1", "u2"]),
        st.sampled_from(list(integration_events.newest())),
        st.integers(0, 2),
    ),
    MOMENTS,
    max_size=10,
)


class Recipient:
    """A target that fails as it is told; it keeps what it was handed."""

    def __init__(self) -> None:
        self.batches: dict[tuple[int, int], list[bytes]] = {}
        self.events: list[Json] = []
        self.faults: list[str] = []

    def take(self, batch: Batch) -> None:
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "killed before":
            raise Killed
        if fault == "refused":
            raise NotDelivered("no")
        lines = integration_events.as_lines("cloudevents", batch.facts)
        known = self.batches.setdefault((batch.first, batch.last), lines)
        assert known == lines, "the same batch again has the same bytes"
        self.events += [json.loads(line) for line in lines]
        if fault == "stored, then killed":
            raise Killed
        if fault == "stored, then 500":
            raise NotDelivered("500")


@settings(
    max_examples=int(os.environ.get("PUBLISH_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(STATES, st.lists(st.sampled_from(FAULTS), max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_any_mix_of_refreshes_publishes_and_faults_gives_each_once_and_in_order(
    tmp_path: Path,
    history: list[tuple[dict[tuple[str, str, int], datetime], list[str]]],
) -> None:
    """In memory: opening a file is most of what publishing a few signals costs."""
    recipient = Recipient()
    target = Target("recipient", recipient.take, largest_batch=2)
    path = tmp_path / "warehouse.duckdb"
    how = to(Warehouse(tmp_path), batch_events=3)
    first_seen: dict[str, tuple[int, datetime, int, str]] = {}
    ranks = list(integration_events.newest())
    with (
        duckdb.connect() as connection,
        mock.patch.object(outbox, "opened", return_value=nullcontext(connection)),
    ):
        connection.execute(outbox.SCHEMA)
        for round_number, (state, faults) in enumerate([*history, (history[0][0], [])]):
            now = [
                Signal("/".join(map(str, key)), key[1], key[0], moment)
                for key, moment in state.items()
            ]
            connection.execute(as_tables(now))
            outbox.enqueue(path, base_url=how.base_url, batch_events=how.batch_events)
            for s in now:
                order = (round_number, s.occurred_at, ranks.index(s.type), s.signal_id)
                first_seen.setdefault(s.signal_id, order)
            recipient.faults = list(faults)
            with suppress(Killed):
                delivery.deliver(path, target)
        delivery.deliver(path, target)

    once = {event["id"]: event for event in recipient.events}
    in_order = sorted(first_seen, key=lambda signal_id: first_seen[signal_id])
    assert list(once) == [id_of(signal_id) for signal_id in in_order]
    assert [int(event["sequence"]) for event in once.values()] == list(
        range(1, len(in_order) + 1)
    )
    for signal_id, event in zip(in_order, once.values(), strict=True):
        moment = first_seen[signal_id][1].replace(tzinfo=UTC)
        assert datetime.fromisoformat(event["time"]) == moment


# --- files -------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_a_file_is_whole_or_not_there(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    derive(warehouse, signals(7))
    rename = os.replace

    def killed(path: Path, target: Path) -> None:
        if after:
            rename(path, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with suppress(Killed):
            delivery.publish(warehouse.path, to(warehouse))
    seen = {name for name in files(warehouse) if not name.startswith(".")}
    assert seen == ({"000000000001-000000000005.ndjson"} if after else set())

    derive(warehouse, signals(9))
    delivery.publish(warehouse.path, to(warehouse))

    assert list(files(warehouse)) == [
        "000000000001-000000000005.ndjson",
        "000000000006-000000000007.ndjson",
        "000000000008-000000000009.ndjson",
    ]
    assert ids(published(warehouse)) == [id_of(s.signal_id) for s in signals(9)]


def test_a_file_that_a_consumer_took_away_does_not_come_back(
    warehouse: Warehouse,
) -> None:
    derive(warehouse, signals(3))
    delivery.publish(warehouse.path, to(warehouse))
    [file] = (warehouse.folder / "outbox" / "cloudevents").iterdir()
    file.unlink()
    derive(warehouse, signals(4))
    delivery.publish(warehouse.path, to(warehouse))

    assert list(files(warehouse)) == ["000000000004-000000000004.ndjson"]


def test_files_of_another_outbox_are_left_alone(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    derive(warehouse, signals(7))
    delivery.publish(warehouse.path, to(warehouse))
    before = files(warehouse)
    for count in (3, 7):
        (tmp_path / str(count)).mkdir()
        made_again = Warehouse(tmp_path / str(count))
        derive(made_again, signals(count))
        how = to(made_again, folder=warehouse.folder / "outbox")
        [told] = delivery.publish(made_again.path, how).deliveries
        assert told.state == "failed"
        assert "files of another outbox" in str(told.error)
    assert files(warehouse) == before


def test_a_folder_that_cannot_be_written_loses_nothing(warehouse: Warehouse) -> None:
    derive(warehouse, signals(3))
    blocked = warehouse.folder / "blocked"
    blocked.write_text("a file where the folder should be")
    [told] = delivery.publish(warehouse.path, to(warehouse, folder=blocked)).deliveries
    assert (told.state, told.watermark, told.behind) == ("failed", 0, 3)

    blocked.unlink()
    delivery.publish(warehouse.path, to(warehouse, folder=blocked))
    assert len(list((blocked / "cloudevents").iterdir())) == 1


# --- receivers ---------------------------------------------------------------------


def test_a_receiver_gets_batches_as_cloudevents_has_them(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(12))
    url = receiver.url.replace("//", "//who:what%20ever@") + "?key=k"
    delivery.publish(warehouse.path, to(warehouse, url))

    assert [len(request.events) for request in receiver.requests] == [5, 5, 2]
    assert receiver.stored == published(warehouse)
    [first, *_] = receiver.requests
    assert first.path == "/events?key=k"
    assert first.headers["Content-Type"] == (
        "application/cloudevents-batch+json; charset=utf-8"
    )
    assert first.headers["Authorization"] == "Basic d2hvOndoYXQgZXZlcg=="
    keys = [request.headers["Idempotency-Key"] for request in receiver.requests]
    assert len(set(keys)) == 3
    assert re.fullmatch(r'"[0-9a-f-]{36}"', keys[0])


def test_a_receiver_that_is_down_gets_everything_once_when_it_is_back(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    down = f"there={receiver.url}"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        for count in (7, 8):
            derive(warehouse, signals(count))
            gone = down.replace(str(receiver.port), str(port))
            [_, told] = delivery.publish(warehouse.path, to(warehouse, gone)).deliveries
            assert (told.state, told.behind) == ("failed", count)
            assert "no answer (" in str(told.error)

    delivery.publish(warehouse.path, to(warehouse, down))
    delivery.publish(warehouse.path, to(warehouse, down))

    assert ids(receiver.stored) == [id_of(s.signal_id) for s in signals(8)]
    assert state_of(warehouse, "there") == (8, None)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_receiver_in_trouble_is_asked_again_and_gets_each_once(
    warehouse: Warehouse, receiver: Receiver, no_waiting: None, status: int
) -> None:
    derive(warehouse, signals(7))
    receiver.answers = [Answer(), *[Answer(status, stores=False)] * 3]
    [_, told] = delivery.publish(
        warehouse.path, to(warehouse, receiver.url, give_up_sec=5)
    ).deliveries

    assert (told.state, told.sent) == ("up to date", 7)
    assert ids(receiver.stored) == [id_of(s.signal_id) for s in signals(7)]
    assert len(receiver.requests) == 5


def test_a_receiver_that_stays_in_trouble_is_left_and_gone_on_with_later(
    warehouse: Warehouse, receiver: Receiver, no_waiting: None
) -> None:
    derive(warehouse, signals(12))
    receiver.answers = [Answer(), *[Answer(500, stores=False)] * 2000]
    how = to(warehouse, receiver.url, give_up_sec=0.2)
    [_, failed] = delivery.publish(warehouse.path, how).deliveries
    assert (failed.state, failed.watermark, failed.behind) == ("failed", 5, 7)
    assert re.search(
        r"answered 500 Internal Server Error; tries: \d+", str(failed.error)
    )
    assert state_of(warehouse, receiver.url) == (5, failed.error)

    receiver.answers = []
    [_, mended] = delivery.publish(warehouse.path, how).deliveries
    assert (mended.state, mended.sent) == ("up to date", 7)
    assert ids(receiver.stored) == [id_of(s.signal_id) for s in signals(12)]
    assert state_of(warehouse, receiver.url) == (12, None)


def test_a_receiver_that_stored_and_said_500_is_told_the_same_ids_again(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(4))
    receiver.answers = [Answer(500)]
    delivery.publish(warehouse.path, to(warehouse, receiver.url))
    derive(warehouse, signals(9))
    delivery.publish(warehouse.path, to(warehouse, receiver.url))

    failed, again, rest = receiver.requests
    assert again.body == failed.body
    assert again.headers["Idempotency-Key"] == failed.headers["Idempotency-Key"]
    assert len(rest.events) == 5
    assert receiver.distinct == [id_of(s.signal_id) for s in signals(9)]


@pytest.mark.parametrize(
    "wanted",
    ["1", format_datetime(datetime.now(UTC) + timedelta(hours=-1), usegmt=True)],
    ids=["seconds", "a time that is over"],
)
def test_retry_after_is_waited_for(
    warehouse: Warehouse, receiver: Receiver, wanted: str
) -> None:
    derive(warehouse, signals(2))
    receiver.answers = [Answer(429, {"Retry-After": wanted}, stores=False)]
    started = time.monotonic()
    [_, told] = delivery.publish(
        warehouse.path, to(warehouse, receiver.url, give_up_sec=5)
    ).deliveries

    assert told.state == "up to date"
    assert wanted != "1" or time.monotonic() - started >= 1
    assert len(receiver.stored) == 2


def test_a_receiver_that_wants_an_hour_is_not_asked_in_it(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(2))
    wanted = format_datetime(datetime.now(UTC) + timedelta(days=9), usegmt=True)
    receiver.answers = [Answer(503, {"Retry-After": wanted}, stores=False)]
    how = to(warehouse, receiver.url, give_up_sec=5)
    [_, failed] = delivery.publish(warehouse.path, how).deliveries
    [_, waiting] = delivery.publish(warehouse.path, how).deliveries

    assert (failed.state, waiting.state) == ("failed", "waiting")
    assert "asked to be left alone until" in str(waiting.error)
    assert len(receiver.requests) == 1
    [[minutes]] = warehouse.rows(
        "select date_diff('minute', now()::timestamp, not_before) "
        "from outbox.watermark where not_before is not null"
    )
    assert 50 <= minutes <= 60, "nine days is more than anyone is waited for"
    warehouse.execute("update outbox.watermark set not_before = timestamp '2000-01-01'")
    delivery.publish(warehouse.path, how)
    assert len(receiver.stored) == 2


@pytest.mark.parametrize("drips", [False, True])
def test_a_slow_receiver_is_not_waited_for_for_ever(
    warehouse: Warehouse, receiver: Receiver, drips: bool
) -> None:
    derive(warehouse, signals(2))
    in_the_end = threading.Event()
    too_late = threading.Timer(60, in_the_end.set)
    too_late.daemon = True
    too_late.start()
    receiver.answers = [Answer(after=in_the_end, drips=drips)]
    how = to(warehouse, receiver.url, timeout_sec=0.3)
    [_, slow] = delivery.publish(warehouse.path, how).deliveries
    assert not in_the_end.is_set()
    in_the_end.set()
    assert (slow.state, slow.behind) == ("failed", 2)

    delivery.publish(warehouse.path, replace(how, timeout_sec=30))
    assert receiver.distinct == [id_of(s.signal_id) for s in signals(2)]


@pytest.mark.parametrize("status", [301, 400, 413])
def test_a_receiver_that_refuses_is_not_asked_twice_and_stops_nobody(
    warehouse: Warehouse, receiver: Receiver, status: int
) -> None:
    derive(warehouse, signals(7))
    said = Answer(status, {"Location": receiver.url}, b"u1 is wrong", stores=False)
    receiver.answers = [said]
    with receiving() as other:
        [_, refused, took] = delivery.publish(
            warehouse.path, to(warehouse, receiver.url, other.url, give_up_sec=5)
        ).deliveries
        assert ids(other.stored) == [id_of(s.signal_id) for s in signals(7)]

    assert (refused.state, refused.behind) == ("failed", 7)
    assert (took.state, took.behind) == ("up to date", 0)
    assert f"answered {status}" in str(refused.error)
    assert "u1" not in str(refused.error), "what it says may name learners"
    assert len(receiver.requests) == 1


def test_a_target_is_set_back_or_past_a_batch_on_purpose(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(9))
    how = to(warehouse, receiver.url)
    delivery.publish(warehouse.path, how)
    target = f"cloudevents {receiver.url}"

    moved = delivery.move(warehouse.path, how, target, 8)
    assert (moved.state, moved.watermark, moved.behind) == ("moved", 7, 2)
    delivery.publish(warehouse.path, how)
    assert ids(receiver.stored[9:]) == [id_of(s.signal_id) for s in signals(9)[7:]]
    with pytest.raises(WarehouseError, match=f"; {re.escape(target)}$"):
        delivery.move(warehouse.path, how, "nobody", 1)


def test_a_watermark_that_is_set_while_a_delivery_is_under_way_stays_set(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(3))
    how = to(warehouse, receiver.url, timeout_sec=30)
    target = f"cloudevents {receiver.url}"
    moving = threading.Event()
    receiver.answers = [Answer(after=moving)]
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(delivery.publish, warehouse.path, how)
        wait_until(lambda: bool(receiver.requests))
        moved = pool.submit(delivery.move, warehouse.path, how, target, 1)
        time.sleep(0.3)
        moving.set()
        running.result()
        assert moved.result().watermark == 0

    assert state_of(warehouse, receiver.url)[0] == 0
    delivery.publish(warehouse.path, how)
    assert ids(receiver.stored) == 2 * [id_of(s.signal_id) for s in signals(3)]


def test_an_outbox_of_an_earlier_version_goes_on_where_it_was(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(3))
    how = to(warehouse, receiver.url)
    delivery.publish(warehouse.path, how)
    warehouse.execute(
        """
        alter table outbox.watermark rename to place;
        delete from raw.format where part = 'outbox'
        """
    )
    derive(warehouse, signals(4))
    delivery.publish(warehouse.path, how)

    assert ids(receiver.stored) == [id_of(s.signal_id) for s in signals(4)]
    assert state_of(warehouse, receiver.url) == (4, None)


def test_a_token_that_no_header_can_carry_is_refused_and_not_shown() -> None:
    with pytest.raises(WarehouseError, match="entry 1 has a token") as refused:
        parse_receivers("https://:s3cr%0Aet@crm.example/", "LMS_PUBLISH_URL")
    assert "s3cr" not in str(refused.value)


def test_a_folder_set_back_into_a_batch_has_no_event_in_two_files(
    warehouse: Warehouse,
) -> None:
    derive(warehouse, signals(7))
    how = to(warehouse)
    delivery.publish(warehouse.path, how)
    before = files(warehouse)
    (warehouse.folder / "outbox" / "cloudevents" / min(before)).unlink()

    delivery.move(warehouse.path, how, f"cloudevents files {how.folder}", 3)
    delivery.publish(warehouse.path, how)

    assert files(warehouse) == before


def test_each_receiver_has_its_own_watermark(warehouse: Warehouse) -> None:
    with receiving() as first, receiving() as second:
        derive(warehouse, signals(3))
        delivery.publish(warehouse.path, to(warehouse, first.url))
        derive(warehouse, signals(6))
        delivery.publish(warehouse.path, to(warehouse, first.url, second.url))
        moved = second.url.replace("/events", "/elsewhere")
        delivery.publish(warehouse.path, to(warehouse, moved))

        expected = [id_of(s.signal_id) for s in signals(6)]
        assert ids(first.stored) == expected
        assert ids(second.stored) == expected * 2, "another URL is another receiver"


def test_a_slow_receiver_holds_up_no_other(warehouse: Warehouse) -> None:
    derive(warehouse, signals(10))
    with receiving() as slow, receiving() as quick:
        quick_is_done = threading.Event()
        slow.answers = [Answer(after=quick_is_done)]
        how = to(warehouse, slow.url, quick.url, timeout_sec=60)
        with ThreadPoolExecutor() as pool:
            running = pool.submit(delivery.publish, warehouse.path, how)
            wait_until(lambda: len(quick.stored) == 10)
            assert len(slow.stored) <= 5
            quick_is_done.set()
            running.result()
        assert len(slow.stored) == 10


def test_two_processes_that_publish_at_once_send_nothing_twice(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(10))
    other_is_done = threading.Event()
    receiver.answers = [Answer(after=other_is_done)]
    how = to(warehouse, f"there={receiver.url}", timeout_sec=60)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(delivery.publish, warehouse.path, how)
        wait_until(lambda: bool(receiver.requests))
        other = subprocess.run(
            [str(WAREHOUSE), "publish", "--json"],
            env=environment(warehouse, receiver),
            text=True,
            capture_output=True,
            check=False,
        )
        other_is_done.set()
        assert running.result().failures == ()

    [_, busy] = json.loads(other.stdout)["targets"]
    assert (other.returncode, busy["state"], busy["sent"]) == (0, "busy", 0)
    assert ids(receiver.stored) == [id_of(s.signal_id) for s in signals(10)]


def test_what_was_acknowledged_is_noted_however_long_the_warehouse_is_held(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive(warehouse, signals(3))
    outbox.enqueue(warehouse.path, base_url="https://lms.example", batch_events=5)
    monkeypatch.setenv("LMS_LOCK_WAIT_SEC", "0.1")
    holders: list[subprocess.Popen[bytes]] = []

    def take(batch: Batch) -> None:
        script = (
            "import duckdb, sys, time; connection = duckdb.connect(sys.argv[1]);"
            "print('held', flush=True); time.sleep(1)"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script, str(warehouse.path)], stdout=subprocess.PIPE
        )
        assert holder.stdout
        holder.stdout.readline()
        holders.append(holder)

    told = delivery.deliver(warehouse.path, Target("there", take))
    [holder] = holders
    holder.communicate()
    assert (told.state, told.watermark) == ("up to date", 3)


def test_credentials_are_shown_nowhere(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(1))
    secret = "s3cret"
    url = receiver.url.replace("//", f"//:{secret}@") + f"?code={secret}"
    receiver.answers = [Answer(400, stores=False)]
    how = to(warehouse, url)
    result = delivery.publish(warehouse.path, how)

    [request] = receiver.requests
    assert request.headers["Authorization"] == f"Bearer {secret}"
    assert secret in request.path
    watermarks = warehouse.rows("from outbox.watermark")
    assert secret not in f"{how} {result} {watermarks}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ftp://a/b", "entry 1 is no URL"),
        ("http://a/b ://c", "entry 2 is no URL"),
        ("http://a:99999/", "entry 1 is no URL"),
        ("http://é/", "entry 1 is no URL"),
        ("http:///path", "entry 1 is no URL"),
        ("http://a/b http://u:p@a/b?c", "two entries have one name"),
    ],
)
def test_a_receiver_that_cannot_be_is_named(text: str, problem: str) -> None:
    with pytest.raises(WarehouseError, match=re.escape(f"LMS_PUBLISH_URL: {problem}")):
        parse_receivers(text, "LMS_PUBLISH_URL")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LMS_PUBLISH_BATCH_EVENTS", "0"),
        ("LMS_PUBLISH_TIMEOUT_SEC", "soon"),
        ("LMS_PUBLISH_GIVE_UP_SEC", "inf"),
        ("LMS_BASE_URL", "lms.example"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(WarehouseError, match=f"{variable}={value}: give "):
        PublishSettings.of(Settings.from_environment())


# --- xAPI --------------------------------------------------------------------------


def test_statements_have_the_ids_of_the_events_and_state_the_threshold(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(
        warehouse,
        [Signal("v"), Signal("q", "QUIZ_PASSED"), Signal("k", "COURSE_COMPLETED")],
    )
    warehouse.execute("update signals.signal_rule set completion_threshold = 0.95")
    how = to(warehouse, xapi=receiver.url)
    delivery.publish(warehouse.path, how, ("cloudevents", "xapi"))

    [statements] = files(warehouse, "xapi").values()
    assert receiver.stored == statements
    assert ids(statements) == ids(published(warehouse))
    verbs = [statement["verb"]["id"].rpartition("/")[2] for statement in statements]
    assert verbs == ["completed", "passed", "completed"]
    [request] = receiver.requests
    assert request.headers["X-Experience-API-Version"] == "1.0.3"
    thresholds = [s["context"].get("extensions", {}) for s in statements]
    assert [list(threshold.values()) for threshold in thresholds] == [[0.95], [], []]


def test_a_record_store_that_takes_a_part_has_not_taken_the_batch(
    warehouse: Warehouse, receiver: Receiver
) -> None:
    derive(warehouse, signals(3))
    receiver.answers = [Answer(200, body=b'{"inserted": 2, "rejected": 1}')]
    [_, told] = delivery.publish(
        warehouse.path, to(warehouse, xapi=receiver.url), ("xapi",)
    ).deliveries

    assert (told.state, told.watermark) == ("failed", 0)
    assert "refused 1 statements" in str(told.error)


# --- killed ------------------------------------------------------------------------


def environment(warehouse: Warehouse, receiver: Receiver) -> dict[str, str]:
    return {
        **os.environ,
        "LMS_WAREHOUSE": str(warehouse.path),
        "LMS_OUTBOX": str(warehouse.folder / "outbox"),
        "LMS_PUBLISH_URL": f"there={receiver.url}",
        "LMS_PUBLISH_BATCH_EVENTS": "5",
    }


def start_publishing(
    warehouse: Warehouse, receiver: Receiver
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [str(WAREHOUSE), "publish"],
        env=environment(warehouse, receiver),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()


def without_the_clock(events: list[Json]) -> list[Json]:
    return [{k: v for k, v in event.items() if k != "recordedtime"} for event in events]


def kill_at_work(
    warehouse: Warehouse, receiver: Receiver, random: Random
) -> "subprocess.Popen[bytes]":
    """Kills a publish after so many more files and requests, and a random moment."""

    def progress() -> int:
        made = (warehouse.folder / "outbox").glob("*/*.ndjson")
        return len(list(made)) + len(receiver.requests)

    wanted = progress() + random.randint(0, 5)
    process = start_publishing(warehouse, receiver)
    time.sleep(random.uniform(0, 0.5))
    while process.poll() is None and progress() < wanted:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate()
    return process


@pytest.mark.parametrize("kills", KILLS)
def test_a_publish_after_killed_ones_ends_as_an_unbroken_one(
    tmp_path: Path, kills: int
) -> None:
    random = Random()
    all_signals = signals(40)
    (tmp_path / "unbroken").mkdir()
    unbroken = Warehouse(tmp_path / "unbroken")
    derive(unbroken, all_signals)
    with receiving() as receiver:
        delivery.publish(unbroken.path, to(unbroken, receiver.url))
        expected = without_the_clock(receiver.stored)
    expected_files = {n: without_the_clock(e) for n, e in files(unbroken).items()}

    killed = 0
    while killed < kills:
        (tmp_path / str(killed)).mkdir()
        warehouse = Warehouse(tmp_path / str(killed))
        derive(warehouse, all_signals)
        with receiving() as receiver:
            # A few kills to one outbox: a broken run meets what another one left.
            broken = [kill_at_work(warehouse, receiver, random) for _ in range(3)]
            assert {run.returncode for run in broken} <= {0, -signal.SIGKILL}
            assert broken[0].returncode != 0
            finish(start_publishing(warehouse, receiver))

            once = {event["id"]: event for event in receiver.stored}
            assert without_the_clock(list(once.values())) == expected
            again = len(receiver.stored) - len(once)
            assert again <= 5 * 3, "at most the batch that was not noted"
            bodies = {r.headers["Idempotency-Key"]: r.body for r in receiver.requests}
            assert len(bodies) == len({r.body for r in receiver.requests}) == 8
        made = {n: without_the_clock(e) for n, e in files(warehouse).items()}
        assert made == expected_files
        killed += sum(run.returncode != 0 for run in broken)


# --- the command, Dagster, dbt -----------------------------------------------------


def test_the_command_says_what_it_did_and_fails_when_a_receiver_did(
    tmp_path: Path, receiver: Receiver
) -> None:
    warehouse = Warehouse(tmp_path)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(WAREHOUSE), "publish", *arguments],
            env=environment(warehouse, receiver),
            text=True,
            capture_output=True,
            check=False,
        )

    nothing = run()
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "no warehouse there; land events first" in nothing.stderr
    assert not warehouse.path.exists()

    derive(warehouse, signals(7))
    receiver.answers = [Answer(), Answer(400, stores=False)]
    failed = run("--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["targets"][1] | {"error": None} == {
        "target": "cloudevents there",
        "state": "failed",
        "sent": 5,
        "place": 5,
        "behind": 2,
        "error": None,
    }
    assert failed.stderr.splitlines() == [
        "failed: cloudevents there: there: answered 400 Bad Request: it will not take "
        "this batch as it is"
    ]
    moved = run("--target", "cloudevents there", "--from", "1")
    assert moved.returncode == 0
    again = run()
    assert (again.returncode, "up to date" in again.stdout) == (0, True)
    assert len(receiver.stored) == 5 + 7
    assert run("--target", "cloudevents there").returncode == 2


@pytest.mark.long
def test_in_dagster_a_receiver_that_is_down_fails_its_own_job_and_no_refresh(
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dagster as dg

    from orchestration.definitions import defs
    from orchestration.defs.schedules import publish_schedule

    warehouse = Warehouse(tmp_path)  # signals.lms_signal is the test's own table
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    with dg.instance_for_test() as instance:
        tick: Callable[[], object] = lambda: publish_schedule(  # noqa: E731
            dg.build_schedule_context(instance),
            settings=Settings.from_environment(),
        )
        assert isinstance(tick(), dg.SkipReason), "no receiver is set"
        monkeypatch.setenv("LMS_PUBLISH_URL", receiver.url)
        assert isinstance(tick(), dg.RunRequest)
        derive(warehouse, signals(7))

        refresh = defs.resolve_job_def("refresh").asset_layer.executable_asset_keys
        outbox = dg.AssetKey(["outbox", "integration_event"])
        sent_to_receivers = dg.AssetKey(["outbox", "delivery"])
        assert outbox in refresh
        assert sent_to_receivers not in refresh
        everything = defs.resolve_implicit_global_asset_job_def()
        filled = everything.execute_in_process(
            instance=instance, asset_selection=[outbox]
        )
        [made] = filled.asset_materializations_for_node("outbox__integration_event")
        assert made.metadata["enqueued"].value == 7
        assert receiver.requests == []

        def send() -> dg.ExecuteInProcessResult:
            job = defs.resolve_job_def("publish")
            return job.execute_in_process(instance=instance, raise_on_error=False)

        receiver.answers = [Answer(400, stores=False)]
        failed = send()
        assert not failed.success
        [check] = failed.get_asset_check_evaluations()
        assert (check.passed, check.metadata["behind"].value) == (False, 7)
        [step] = [event for event in failed.all_events if event.is_step_failure]
        assert "answered 400" in str(step.step_failure_data.user_failure_data)
        sent = send()
        assert sent.success
        assert all(check.passed for check in sent.get_asset_check_evaluations())
        assert len(receiver.stored) == 7


def test_from_events_to_integration_events(warehouse: Warehouse) -> None:
    """One learner and a course of two steps, a late event, another catalogue."""
    warehouse.land_catalogue(Class("c1", has_quiz=1), Class("c2", position=2))
    warehouse.land(
        [
            ping("e1", position=95, at="2026-03-10T10:00:00Z"),
            quiz("e2", at="2026-03-10T11:00:00Z"),
            ping("e3", position=95, in_class="c2", at="2026-03-10T12:00:00Z"),
        ]
    )
    warehouse.refresh()
    delivery.publish(warehouse.path, to(warehouse))

    told = [
        (event["type"], event["time"][11:16], event["data"].get("class_id"))
        for event in published(warehouse)
    ]
    assert told == [
        ("lms.video.completed.v1", "10:00", "c1"),
        ("lms.quiz.passed.v1", "11:00", "c1"),
        ("lms.step.completed.v1", "11:00", "c1"),
        ("lms.video.completed.v1", "12:00", "c2"),
        ("lms.step.completed.v1", "12:00", "c2"),
        ("lms.course.completed.v1", "12:00", None),
    ]
    known = {
        row[0] for row in warehouse.rows("select signal_id from signals.lms_signal")
    }
    assert {event["data"]["signal_id"] for event in published(warehouse)} == known

    warehouse.land(
        [
            ping("e0", position=99, at="2026-03-10T09:00:00Z"),
            ping("e4", position=99, in_class="c3", at="2026-03-10T08:00:00Z"),
        ]
    )
    warehouse.land_catalogue(
        Class("c1", has_quiz=1), Class("c3"), effective_from="2026-03-01"
    )
    warehouse.refresh()
    delivery.publish(warehouse.path, to(warehouse))

    more = published(warehouse)[6:]
    assert [(event["type"], event["data"]["class_id"]) for event in more] == [
        ("lms.video.completed.v1", "c3"),
        ("lms.step.completed.v1", "c3"),
    ]
    sequences = [event["sequence"] for event in published(warehouse)]
    assert sequences == [f"{number:012}" for number in range(1, 9)]
