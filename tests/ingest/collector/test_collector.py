"""The collector: what it takes, what it answers, and that a 2xx means on disk."""

import asyncio
import contextlib
import gzip
import http.client
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ingest.collector import request_body, tokens
from ingest.collector.answers import Refused
from ingest.collector.limits import Limits
from ingest.collector.request_body import LARGEST_BODY_BYTES
from ingest.errors import WarehouseError
from ingest.landing import zone
from ingest.settings import Settings
from ingest.spool.writer import SpoolError
from orchestration.cli import app
from tests.support.builders import Json, Warehouse, event, ping, quiz, without
from tests.support.collecting import (
    LEARNER_SECRET,
    Answer,
    Collecting,
    call_app,
    collecting,
    environment,
    port_of,
    service,
    wait_for,
)

WAREHOUSE = Path(sys.executable).with_name("warehouse")


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collecting]:
    with collecting(tmp_path) as made:
        yield made


# --------------------------------------------------------------------------------------
# Bodies
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (ping("e1"), ["e1"]),
        ([ping("e1"), quiz("e2")], ["e1", "e2"]),
        ({"events": [ping("e1"), ping("e2")], "more": 1}, ["e1", "e2"]),
        ({**ping("e1"), "events": "of something else"}, ["e1"]),
        ([], []),
        (json.dumps([ping("e1"), ping("e2")], indent=4).encode(), ["e1", "e2"]),
        (b" \r\n" + json.dumps(ping("e1")).encode() + b"\n", ["e1"]),
    ],
)
def test_one_event_a_list_or_an_object_with_a_list_is_kept(
    collector: Collecting, body: Any, ids: list[str]
) -> None:
    answer = collector.post(body)

    assert answer.status == 200
    assert [each["event_id"] for each in answer.json["events"]] == ids
    assert answer.outcomes == ["accepted"] * len(ids)
    assert [line["event_id"] for line in collector.lines()] == ids


BAD: list[Json | bytes] = [
    without(ping("b1"), "user_id"),
    ping("b2", position=-1),
    ping("b3", payload={"position_sec": "12"}),
    ping("b4", at="2026-03-10T10:00:00"),
    ping("b5", version=9),
    quiz("b6", score=11),
    event("b7", "NO_SUCH", {}),
    b"5",
    b"null",
    b'"text"',
    b"[[]]",
    b"{}",
    b'{"event_id": "b8", "event_id": "b9"}',
]


def test_a_reason_is_the_one_that_landing_gives(
    collector: Collecting, warehouse: Warehouse
) -> None:
    bodies = [
        line if isinstance(line, bytes) else json.dumps(line).encode() for line in BAD
    ]
    answer = collector.post(b"[" + b",".join([*bodies, b"{}"]) + b"]")
    collector.land(warehouse)

    landed = warehouse.rows(
        "select reason, field from raw.dead_letter order by line_number"
    )
    assert answer.status == 200
    assert answer.json["rejected"] == len(BAD) + 1
    assert [
        (each["reason"], each.get("field")) for each in answer.json["events"]
    ] == landed


def test_what_is_accepted_is_what_landing_accepts(
    collector: Collecting, warehouse: Warehouse
) -> None:
    """Every event, broken in random ways, has the same fate at both doors."""
    chance = Random(5)
    builders: list[Callable[[str], Json]] = [ping, quiz]
    bodies = []
    for number in range(400):
        body = json.dumps(chance.choice(builders)(f"e{number}"), indent=2)
        for _ in range(chance.randrange(3)):
            at = chance.randrange(len(body))
            body = body[:at] + chance.choice('0-9."{}[],:nax\\ ') + body[at + 1 :]
        bodies.append(body.encode())

    verdicts = [
        (each["event_id"], each["outcome"])
        for answer in map(collector.post, bodies)
        if answer.status == 200
        for each in answer.json["events"]
    ]
    collector.land(warehouse)

    accepted = {
        name for (name,) in warehouse.rows("select event_id from raw.lms_event")
    }
    said = {event_id for event_id, outcome in verdicts if outcome == "accepted"}
    assert 50 < len(accepted) < 350
    assert accepted == said
    assert warehouse.value("select sum(rejected) from raw.load") == sum(
        outcome == "rejected" for _, outcome in verdicts
    )


@pytest.mark.parametrize(
    "poison",
    [
        b'{"event_id": "p", "note": "\\ud800"}',
        b'{"event_id": "p", "position": NaN}',
        b'{"event_id": "p", "text": "\xff"}',
    ],
)
@pytest.mark.parametrize("shape", [b"[%s]", b'{"token": "x", "events": [%s ] }'])
def test_a_poisoned_event_stops_no_other(
    collector: Collecting, poison: bytes, shape: bytes
) -> None:
    good = json.dumps(ping("e1")).encode(), json.dumps(ping("e2")).encode()

    answer = collector.post(shape % b" , ".join((good[0], poison, good[1])))

    assert [verdict.split()[0] for verdict in answer.outcomes] == [
        "accepted",
        "rejected",
        "accepted",
    ]
    assert len(collector.raw_lines()) == 3


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just("events"), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(
    body=st.lists(values, max_size=4)
    | st.dictionaries(
        st.sampled_from(["events", "token", "learner_token", "x"]), values, max_size=4
    ),
    indent=st.sampled_from([None, 2]),
    is_ascii=st.booleans(),
)
def test_a_body_is_split_alike_whether_it_is_poisoned_or_not(
    body: Any, indent: int | None, is_ascii: bool
) -> None:
    """The way for bodies that are not quite JSON finds the same in those that are."""
    content = json.dumps(body, indent=indent, ensure_ascii=is_ascii)
    try:
        strict = request_body.split_strictly(content.encode())
    except (ValueError, UnicodeEncodeError):
        return  # a lone surrogate: there is only the other way
    assert request_body.split_leniently(content.encode()) == strict
    events = body if isinstance(body, list) else body.get("events")
    if isinstance(events, list):
        assert [json.loads(event) for event in strict.events] == events


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"hello",
        b"[",
        b"[1,]",
        b"[1 2]",
        b'{"events": [1}',
        b'{"events": []} {}',
        b"[" * 100_000,
        b'[{"a": "line\nbreak"}]',
    ],
)
def test_a_body_that_is_no_json_is_400_and_nothing_is_kept(
    collector: Collecting, body: bytes
) -> None:
    answer = collector.post(body)

    assert answer.status == 400
    assert answer.json["error"]
    assert collector.raw_lines() == []


def test_too_many_events_and_too_many_bytes_are_413(collector: Collecting) -> None:
    most = [ping(f"e{number}") for number in range(500)]
    assert collector.post(most).status == 200
    before = collector.raw_lines()

    assert collector.post([*most, ping("one more")]).status == 413
    large = b'"' + b"x" * LARGEST_BODY_BYTES + b'"'
    assert collector.post(large).status == 413
    # Without a Content-Length, as chunks.
    bearer = {"Authorization": f"Bearer {collector.token}"}
    chunks = [b"x" * 65536] * 17
    assert collector.call("POST", "/v1/events", chunks, bearer).status == 413
    assert collector.raw_lines() == before


def test_a_body_that_never_ends_is_408(
    collector: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.collector.request_body.SLOWEST_BODY_SEC", 0.1)
    call = call_app(
        collector.app,
        "POST",
        "/v1/events",
        [b"[", b"1"],
        {"Authorization": f"Bearer {collector.token}"},
        ends=False,
    )

    assert asyncio.run(call).status == 408
    assert collector.raw_lines() == []


def test_a_gzip_body_is_unpacked_up_to_the_bound(collector: Collecting) -> None:
    def post(body: bytes, encoding: str = "gzip") -> int:
        return collector.post(body, headers={"Content-Encoding": encoding}).status

    packed = gzip.compress(json.dumps([ping("e1")]).encode())
    assert post(packed) == 200
    assert [line["event_id"] for line in collector.lines()] == ["e1"]
    bomb = gzip.compress(b" " * 100_000_000)
    assert len(bomb) < LARGEST_BODY_BYTES
    tracemalloc.start()
    assert post(bomb) == 413
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert post(packed[:-1]) == 400
    assert post(packed + b"more") == 400
    assert post(b"not gzip") == 400
    assert post(packed, "br") == 415
    assert len(collector.raw_lines()) == 1


# --------------------------------------------------------------------------------------
# Who may write what
# --------------------------------------------------------------------------------------


def test_without_an_active_token_nothing_is_kept(collector: Collecting) -> None:
    revoked = collector.make_token("gone")
    assert collector.post(ping("e1"), revoked).status == 200
    tokens.revoke(collector.settings.tokens, "gone")

    assert collector.post(ping("e2"), revoked).status == 401
    assert collector.post(ping("e2"), "lmsw_guessed").status == 401
    unsigned = collector.call("POST", "/v1/events", json.dumps(ping("e2")).encode())
    assert unsigned.status == 401
    assert unsigned.headers["www-authenticate"] == "Bearer"
    assert [line["event_id"] for line in collector.lines()] == ["e1"]


def test_only_hashes_of_tokens_are_kept(collector: Collecting) -> None:
    path = collector.settings.tokens
    assert collector.token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_event_has_a_source_that_its_token_may_write_for(
    collector: Collecting,
) -> None:
    token = collector.make_token("both", sources=["web", "ios"])

    answer = collector.post(
        [
            ping("e1"),
            ping("e2", source="ios"),
            ping("e3", source="lms"),
            ping("e4", payload={"source": "lms"}),
        ],
        token,
    )

    assert answer.outcomes == [
        "accepted",
        "accepted",
        "refused not_allowed",
        "accepted",
    ]
    assert answer.json["events"][2]["event_id"] == "e3"
    assert [(line["event_id"], line["source"]) for line in collector.lines()] == [
        ("e1", "web"),
        ("e2", "ios"),
        ("e4", "web"),
    ]


def test_a_source_in_another_spelling_gets_past_nobody(collector: Collecting) -> None:
    body = json.dumps(ping("e1", source="lms")).replace('"source"', '"sourc\\u0065"')

    assert collector.post(body.encode()).outcomes == ["rejected duplicate_key"]


def test_a_token_for_pings_cannot_send_quiz_results(collector: Collecting) -> None:
    token = collector.make_token("player", types=["VIDEO_PING"])

    answer = collector.post([ping("e1"), quiz("e2"), quiz("e3", version=9)], token)

    assert answer.outcomes == ["accepted", *["refused not_allowed"] * 2]
    assert collector.post(quiz("e4"), token).status == 403
    assert [line["event_id"] for line in collector.lines()] == ["e1"]


def learner_token(user_id: str, *, valid_sec: int = 60) -> dict[str, str]:
    text = tokens.learner_token(user_id, LEARNER_SECRET, valid_sec=valid_sec)
    return {"Learner-Token": text}


def test_a_browser_can_only_write_as_its_own_learner(collector: Collecting) -> None:
    token = collector.make_token("player", needs_learner=True)
    answer = collector.post(
        [
            ping("e1", user="ada"),
            ping("e2", user="bob"),
            # Rejected now, but readable once there is such a version: not bob's either.
            ping("e3", user="bob", version=9),
            ping("e4", user="ada", version=9),
            without(ping("e5"), "user_id"),
        ],
        token,
        learner_token("ada"),
    )

    assert answer.outcomes == [
        "accepted",
        "refused not_allowed",
        "refused not_allowed",
        "rejected unknown_contract",
        "refused not_allowed",
    ]
    assert [line["event_id"] for line in collector.lines()] == ["e1", "e4"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        learner_token("ada", valid_sec=-1),
        {"Learner-Token": "no.jwt.atall"},
        {"Learner-Token": jwt.encode({"sub": "ada", "exp": 2**33}, "x" * 40)},
        {"Learner-Token": jwt.encode({"sub": "ada"}, LEARNER_SECRET)},
        {"Learner-Token": jwt.encode({"exp": 2**33}, LEARNER_SECRET)},
        {"Learner-Token": jwt.encode({"sub": "ada", "exp": 2**33}, "", "none")},
        {
            "Learner-Token": jwt.encode(
                {"sub": "ada", "exp": 2**33}, LEARNER_SECRET * 2, "HS512"
            )
        },
    ],
)
def test_a_learner_token_that_is_missing_forged_or_over_is_401(
    collector: Collecting, headers: dict[str, str]
) -> None:
    token = collector.make_token("player", needs_learner=True)

    assert collector.post(ping("e1", user="ada"), token, headers).status == 401
    assert collector.raw_lines() == []


def test_a_submission_of_tallys_cannot_come_by_this_door(
    collector: Collecting,
) -> None:
    """Landing would map the line as if Tally had signed it."""
    line = {
        "type": "TALLY_SUBMISSION",
        "submission": {"formId": "f", "responseId": "r", "fields": []},
    }
    spelled = json.dumps(line).replace("TALLY", "T\\u0041LLY").encode()

    assert collector.post([line]).outcomes == ["refused not_allowed"]
    assert collector.post(spelled).outcomes == ["refused not_allowed"]
    assert collector.raw_lines() == []


def test_too_fast_is_429_with_the_time_to_wait(collector: Collecting) -> None:
    slow = collector.make_token("slow", rate=10)
    batch = [ping(f"e{number}") for number in range(250)]
    assert collector.post(batch, slow).status == 200
    assert collector.post(batch, slow).status == 200

    refused = collector.post(batch, slow)

    assert refused.status == 429
    assert 20 <= int(refused.headers["retry-after"]) <= 26
    assert len(collector.raw_lines()) == 500
    assert collector.post(ping("other")).status == 200


def test_a_bucket_fills_again_and_a_burst_is_bounded() -> None:
    limits = Limits()

    def take(count: int, now: float) -> float:
        return limits.take(("t",), count, rate=10, burst=20, now=now)

    assert take(20, 0) == 0
    assert take(5, 0) == pytest.approx(0.5)
    assert take(5, 0.5) == 0
    assert take(20, 1000) == 0
    assert take(1, 1000) == pytest.approx(0.1)


def test_a_configured_origin_may_post_and_another_may_not(tmp_path: Path) -> None:
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,learner-token",
    }
    with collecting(tmp_path, origins=("https://lms.example",)) as collector:
        allowed, other = (
            collector.call("OPTIONS", "/v1/events", headers={**preflight, "Origin": o})
            for o in ("https://lms.example", "https://else.example")
        )
        posted = collector.post(ping(), headers={"Origin": "https://lms.example"})

    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://lms.example"
    assert other.status == 400
    assert "access-control-allow-origin" not in other.headers
    assert posted.headers["access-control-allow-origin"] == "https://lms.example"


def test_a_beacon_brings_its_tokens_in_the_body(collector: Collecting) -> None:
    token = collector.make_token("player", needs_learner=True)
    beacon = {
        "token": token,
        "learner_token": learner_token("ada")["Learner-Token"],
        "events": [ping("e1", user="ada"), ping("e2", user="bob")],
    }

    answer = collector.call(
        "POST",
        "/v1/events",
        json.dumps(beacon).encode(),
        {"Content-Type": "text/plain;charset=UTF-8"},
    )

    assert answer.outcomes == ["accepted", "refused not_allowed"]
    assert token.encode() not in b"".join(collector.raw_lines())


# --------------------------------------------------------------------------------------
# On disk
# --------------------------------------------------------------------------------------


def test_many_requests_share_an_fsync(
    collector: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, 0

    def slow_fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.2)
        fsync(descriptor)

    async def post_all() -> list[Answer]:
        bearer = {"Authorization": f"Bearer {collector.token}"}
        return await asyncio.gather(
            *(
                call_app(
                    collector.app,
                    "POST",
                    "/v1/events",
                    json.dumps(ping(f"e{number}")).encode(),
                    bearer,
                )
                for number in range(100)
            )
        )

    monkeypatch.setattr(os, "fsync", slow_fsync)
    answers = asyncio.run(post_all())

    assert {answer.status for answer in answers} == {200}
    assert len(collector.lines()) == 100
    assert calls <= 10


def test_it_answers_only_after_the_fsync(
    collector: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    fsync = os.fsync

    def tell(descriptor: int) -> None:
        fsync(descriptor)
        time.sleep(0.05)
        synced.set()

    assert collector.post(ping("e1")).status == 200
    monkeypatch.setattr(os, "fsync", tell)
    assert collector.post(ping("e2")).status == 200
    assert synced.is_set()


def test_a_disk_that_refuses_is_503_until_it_takes_again(
    collector: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert collector.post(ping("e1")).status == 200

    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        refused = collector.post(ping("e2"))
        assert refused.status == 503
        assert refused.headers["retry-after"]
        assert "No space left" in refused.json["error"]
        assert collector.call("GET", "/ready").status == 503
        assert collector.call("GET", "/health").status == 200
        assert collector.metric("collector_spool_refused") == 1
    assert collector.call("GET", "/ready").status == 200
    assert collector.post(ping("e3")).status == 200
    assert [line["event_id"] for line in collector.lines()] == ["e1", "e3"]


@pytest.mark.parametrize("refused", [("fsync",), ("fsync", "ftruncate")])
def test_a_stop_after_a_full_disk_says_nothing_of_files_that_do_not_stay(
    collector: Collecting, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    def refuse(*_arguments: int) -> None:
        raise OSError(28, "No space left on device")

    assert collector.post(ping("e1")).status == 200
    with monkeypatch.context() as patch:
        for name in refused:
            patch.setattr(os, name, refuse)
        assert collector.post(ping("e2")).status == 503
    collector.spool.close()
    assert list(collector.settings.spool.iterdir()) == []
    assert [line["event_id"] for line in collector.lines()][:1] == ["e1"]


def test_a_stop_on_a_disk_that_refuses_says_that_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device", str(self))

    expected = re.escape("the last file stays there (No space left on device)")
    with contextlib.suppress(SpoolError), collecting(tmp_path) as collector:
        assert collector.post(ping("e1")).status == 200
        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(SpoolError, match=expected):
            collector.spool.close()
    assert [path.suffix for path in collector.settings.spool.iterdir()] == [".part"]


def test_a_disk_that_hangs_is_503(
    collector: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: go_on.wait(30))
        patch.setattr("ingest.collector.app.SLOWEST_COMMIT_SEC", 0.2)
        assert collector.post(ping("e1")).status == 503
        go_on.set()
    assert collector.post(ping("e2")).status == 200


def test_a_writer_that_ended_is_not_ready(collector: Collecting) -> None:
    collector.spool.close()

    assert collector.call("GET", "/ready").status == 503
    assert collector.post(ping()).status == 503


def test_a_file_is_handed_on_by_size_and_by_age(tmp_path: Path) -> None:
    with collecting(tmp_path, max_bytes=1000, max_age_sec=3) as collector:
        landing = collector.settings.landing
        collector.post([ping(f"e{number}") for number in range(20)])
        wait_for(lambda: len(list(landing.glob("*.ndjson"))) == 1, within_sec=2.5)
        collector.post(ping("late"))
        wait_for(lambda: len(list(landing.glob("*.ndjson"))) == 2)
        assert list(collector.settings.spool.iterdir()) == []
        assert len(collector.lines()) == 21


# --------------------------------------------------------------------------------------
# A real process
# --------------------------------------------------------------------------------------


def make_token(folder: Path) -> str:
    path = folder / "collector" / "tokens.json"
    return tokens.create(path, "all", sources=["web"], rate=1e6)[1]


class Sender(threading.Thread):
    """Sends small batches one after the other; remembers what was acknowledged."""

    def __init__(self, name: str, port: int, token: str) -> None:
        super().__init__(daemon=True)
        self.prefix = name
        self.acknowledged: set[str] = set()
        self._port, self._token = port, token

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        for number in range(1_000_000):
            batch = [ping(f"{self.prefix}-{number}-{each}") for each in range(5)]
            try:
                connection.request(
                    "POST",
                    "/v1/events",
                    json.dumps(batch),
                    {"Authorization": f"Bearer {self._token}"},
                )
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError):
                return
            if answer.status == 200:
                self.acknowledged |= {
                    each["event_id"]
                    for each in content["events"]
                    if each["outcome"] == "accepted"
                }


KILLS = [
    2,
    pytest.param(int(os.environ.get("KILLS", "50")), marks=pytest.mark.slow, id="many"),
]


@pytest.mark.long
@pytest.mark.parametrize("kills", KILLS)
def test_killed_under_load_it_loses_no_acknowledged_event(
    tmp_path: Path, warehouse: Warehouse, kills: int
) -> None:
    token = make_token(tmp_path)
    chance = Random(kills)
    acknowledged: set[str] = set()
    for kill in range(kills):
        with service(tmp_path, max_mb=0.02, max_age_sec=0.2) as collector:
            senders = [Sender(f"k{kill}-{n}", collector.port, token) for n in range(4)]
            for sender in senders:
                sender.start()
            time.sleep(chance.uniform(0.2, 0.8))
            collector.kill()
            for sender in senders:
                sender.join(30)
                acknowledged |= sender.acknowledged
    with service(tmp_path) as collector:  # hands on what was left behind
        assert collector.stop() == 0
    # As the sensor's run does; the second one finds nothing to take.
    folder = tmp_path / "landing"
    assert len(zone.land_zone(folder, warehouse.path).events.loads) > kills
    assert zone.land_zone(folder, warehouse.path).events.loads == ()

    landed = [name for (name,) in warehouse.rows("select event_id from raw.lms_event")]
    assert len(acknowledged) > 100 * kills
    assert acknowledged <= set(landed)
    assert len(landed) == len(set(landed))
    assert warehouse.value("select count(*) from raw.dead_letter") == 0
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_full_disk_is_503_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    """No file may grow past 64 KiB, as on a disk that is full."""
    token = make_token(tmp_path)
    statuses, acknowledged = [], set[str]()
    with service(tmp_path, largest_file=65536) as collector:
        connection = http.client.HTTPConnection("127.0.0.1", collector.port)
        for number in range(40):
            batch = [ping(f"{number}-{each}") for each in range(20)]
            answer = post(connection, "/v1/events", batch, token)
            statuses.append(answer)
            if answer == 200:
                acknowledged |= {each["event_id"] for each in batch}
        collector.stop()

    assert set(statuses) == {200, 503}
    assert statuses[0] == 200
    assert sorted(acknowledged) == sorted(collector.landed_ids())


def post(
    connection: http.client.HTTPConnection, path: str, body: Any, token: str
) -> int:
    headers = {"Authorization": f"Bearer {token}", "User-Agent": "secret-browser"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_graceful_stop_answers_all_and_leaves_nothing_in_the_spool(
    tmp_path: Path,
) -> None:
    """By the command itself, from its first line to its exit code."""
    token = make_token(tmp_path)
    log = tmp_path / "collector.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [WAREHOUSE, "collect", "--port", "0"],
            env={**os.environ, **environment(tmp_path)},
            stderr=errors,
        )
    try:
        port = port_of(lambda: process.poll() is None, log)
        senders = [Sender(f"s{n}", port, token) for n in range(4)]
        for sender in senders:
            sender.start()
        wait_for(lambda: all(len(sender.acknowledged) > 20 for sender in senders))
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
    for sender in senders:
        sender.join(30)
    [file] = (tmp_path / "landing" / "events").glob("*.ndjson")

    landed = {json.loads(line)["event_id"] for line in file.read_bytes().splitlines()}
    acknowledged = set[str]().union(*(sender.acknowledged for sender in senders))
    assert acknowledged <= landed
    assert list((tmp_path / "spool").iterdir()) == []
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "stopped"
    # The warehouse is another process's: this one has not even made the file.
    assert not (tmp_path / "warehouse.duckdb").exists()


# --------------------------------------------------------------------------------------
# What it tells
# --------------------------------------------------------------------------------------


def test_metrics_count_requests_events_and_fsyncs(collector: Collecting) -> None:
    collector.post([ping("e1"), ping("e2"), ping("e3", position=-1)])
    collector.post(b"no json")

    text = collector.call("GET", "/metrics").body.decode()

    for line in (
        'collector_requests_total{path="/v1/events",status="200"} 1.0',
        'collector_requests_total{path="/v1/events",status="400"} 1.0',
        'collector_events_total{outcome="accepted",reason=""} 2.0',
        'collector_events_total{outcome="rejected",reason="out_of_range"} 1.0',
        "collector_fsync_seconds_count 1.0",
        "collector_spool_waiting_bytes 0.0",
    ):
        assert line in text
    size = sum(len(line) + 1 for line in collector.raw_lines())
    assert collector.metric("collector_spool_file_bytes") == size
    assert collector.metric("collector_spool_age_seconds") > 0


def test_no_log_line_has_a_learner_or_a_token(tmp_path: Path) -> None:
    token = make_token(tmp_path)
    with service(tmp_path) as collector:
        connection = http.client.HTTPConnection("127.0.0.1", collector.port)
        statuses = [
            post(connection, path, body, given)
            for path, body, given in (
                ("/v1/events?who=secret-learner", [ping("secret-id")], token),
                ("/v1/events", [ping(user="secret-learner", version=9)], token),
                ("/v1/events", [ping(user="secret-learner")], "secret-token"),
                ("/secret-learner", {}, token),
            )
        ]
        assert collector.stop() == 0
        text = collector.log.read_text()

    lines = [json.loads(line) for line in text.splitlines()]
    assert [line.get("status") for line in lines] == [None, *statuses, None]
    assert statuses == [200, 200, 401, 404]
    assert lines[1]["producer"] == "all"
    assert lines[2]["reasons"] == ["unknown_contract"]
    for secret in ("secret", token, "127.0.0.1:"):
        assert secret not in text


def test_an_error_of_ours_is_500_and_its_text_stays_here(
    collector: Collecting,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_arguments: Any) -> None:
        raise RuntimeError("secret-learner")

    monkeypatch.setattr("ingest.collector.app.classify", fail)
    caplog.set_level(logging.DEBUG)

    answer = collector.post(ping())

    printed = "".join(capsys.readouterr()) + caplog.text
    assert (answer.status, answer.json) == (500, {"error": "internal error"})
    assert "RuntimeError" in printed
    assert "secret-learner" not in printed + answer.body.decode()


def test_the_document_has_the_contracts_and_every_answer(
    collector: Collecting,
) -> None:
    document = collector.call("GET", "/openapi.json").json
    schemas = document["components"]["schemas"]

    assert {"video_ping_v1", "video_ping_v2", "quiz_submit_v1"} <= schemas.keys()
    responses = document["paths"]["/v1/events"]["post"]["responses"]
    assert {"200", "400", "401", "403", "413", "429", "503"} <= responses.keys()
    assert collector.call("GET", "/nope").json == {"error": "Not Found"}
    assert collector.call("GET", "/v1/events").status == 405


def test_its_documentation_needs_no_other_host(collector: Collecting) -> None:
    page = collector.call("GET", "/docs").body.decode()

    parts = re.findall(r"""(?:src|href|url)(?:=|:\s*)["']([^"']+)["']""", page)
    assert {part.rsplit("/", 1)[1] for part in parts} == {
        *("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png", "openapi.json")
    }
    for part in parts:
        assert collector.call("GET", part).status == 200


# --------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(*arguments: str) -> Any:
    """What a command prints, as JSON."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_tokens_are_made_listed_and_revoked(folder: Path) -> None:
    made = run("tokens", "create", "player", "--source", "web")
    listed = run("tokens", "list")
    gone = run("tokens", "revoke", "player")

    assert (made["name"], made["sources"]) == ("player", ["web"])
    assert tokens.read(Settings.from_environment().tokens).tokens[
        0
    ].sha256 == tokens.hash_of(made["token"])
    assert [each["revoked_at"] for each in listed] == [None]
    assert made["token"] not in json.dumps(listed)
    assert gone["revoked_at"]


def test_what_cannot_be_made_or_revoked_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    tokens.create(path, "player", sources=["web"])

    for wrong, message in (
        ({"name": "player", "sources": ["web"]}, "an active token of that name"),
        ({"name": "a b", "sources": ["web"]}, "name 'a b': expected"),
        ({"name": "a", "sources": ['"']}, "--source"),
        ({"name": "a", "sources": []}, "name at least one"),
        ({"name": "a", "sources": ["web"], "types": ["X"]}, "--type X: no contract"),
        ({"name": "a", "sources": ["web"], "rate": 0}, "--rate 0"),
    ):
        with pytest.raises(WarehouseError, match=message):
            tokens.create(path, **wrong)
    with pytest.raises(WarehouseError, match="no active token of that name"):
        tokens.revoke(path, "nobody")
    path.write_text("[{}]")
    with pytest.raises(WarehouseError, match="no file of tokens"):
        tokens.read(path)


def test_a_token_that_only_reads_sends_nothing(collector: Collecting) -> None:
    reader = collector.make_token("pages", sources=[], reads=True)

    answer = collector.post(ping("e1"), token=reader)

    assert (answer.status, answer.json) == (
        403,
        {"error": "this token may read, and send nothing"},
    )
    assert collector.raw_lines() == []


def test_a_damaged_token_file_ends_nobodys_right(collector: Collecting) -> None:
    good = collector.settings.tokens.read_text()
    assert collector.post(ping("e0")).status == 200
    collector.settings.tokens.write_text("{")

    assert collector.post(ping("e1")).status == 200
    ready = collector.call("GET", "/ready")
    assert (ready.status, len(ready.json["problems"])) == (503, 1)
    collector.settings.tokens.write_text(good)
    assert collector.call("GET", "/ready").status == 200


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LMS_LEARNER_SECRET", "short", "LMS_LEARNER_SECRET: too short"),
        ("LMS_SPOOL", "/proc/spool", "/proc/spool: cannot be written"),
        ("LMS_SPOOL", "/dev/shm/lms-spool", "are on different file systems"),
        ("LMS_QUIZ_REGISTER", "register.csv", "line 1: no column class_id"),
    ],
)
def test_a_collector_that_cannot_start_says_why(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "register.csv").write_text("form_id\n")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("ingest.collector.metrics.set_up_logs", lambda: None)

    result = CliRunner().invoke(app, ["collect", "--port", "0"])

    assert isinstance(result.exception, WarehouseError)
    assert message in str(result.exception)


def test_a_port_that_is_taken_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [WAREHOUSE, "collect", "--port", port],
            capture_output=True,
            text=True,
            check=False,
        )

    [line] = result.stderr.splitlines()
    assert result.returncode == 1
    assert line.startswith(f"error: 127.0.0.1:{port}: cannot be listened on")


def test_an_id_that_utf8_cannot_hold_is_answered_and_written_once(
    collector: Collecting,
) -> None:
    body = json.dumps([ping("\ud800"), ping("e2")]).encode()
    answer = collector.post(body)
    assert answer.status == 200
    assert answer.outcomes == ["rejected invalid_utf8", "accepted"]
    assert len(collector.raw_lines()) == 2


def test_a_body_of_many_keys_freezes_nothing(collector: Collecting) -> None:
    """One key twice among 40,000 held the event loop for 190 s."""
    keys = ", ".join(f'"k{number}": 0' for number in range(40_000))
    started = time.monotonic()
    answer = collector.post(f'{{"payload": {{{keys}, "k39999": 0}}}}'.encode())
    assert answer.status == 200
    assert time.monotonic() - started < 10


def test_a_large_body_is_split_beside_the_event_loop() -> None:
    body = b"[" + b",".join([b'{"payload":[NaN,1,2,3]}'] * 40_000) + b"]"

    async def beats_meanwhile() -> int:
        beats = 0
        splitting = asyncio.create_task(request_body.batch_of(body, ""))
        while not splitting.done():
            await asyncio.sleep(0.001)
            beats += 1
        with pytest.raises(Refused, match="at most 500"):
            await splitting
        return beats

    assert asyncio.run(beats_meanwhile()) > 3
