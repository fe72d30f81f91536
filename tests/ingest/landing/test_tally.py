"""Tally's webhook: whose it is, what is kept of it, and which event it becomes."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.collector.request_body import LARGEST_BODY_BYTES
from ingest.contracts.validation import Event, Rejection, examine
from ingest.errors import WarehouseError
from ingest.landing import dead_letters, quiz_register, tally
from ingest.landing.dead_letters import Selection
from ingest.landing.quiz_register import QuizRegister
from ingest.settings import Settings
from tests.support.builders import Json, Warehouse
from tests.support.collecting import (
    TALLY_SECRET,
    Answer,
    Collecting,
    call_app,
    collecting,
)

HEADER = "form_id,class_id,score_field,max_score,pass_mark,keep_free_text\n"
ROW = "wkPz0d,algebra,score,10,80,no\n"
ESSAY = "my zeppelin, by ada@example.org"


@pytest.fixture(autouse=True)
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The register of collector and loader; has one form."""
    path = tmp_path / "landing" / "quiz_register.csv"
    path.parent.mkdir()
    path.write_text(HEADER + ROW)
    monkeypatch.setenv("LMS_QUIZ_REGISTER", str(path))
    return path


@pytest.fixture
def collector(tmp_path: Path, register: Path) -> Iterator[Collecting]:
    with collecting(tmp_path) as made:
        yield made


def hidden(label: str, value: Any) -> Json:
    return {
        "key": f"question_{label[:1]}9zQ_opaque",
        "label": label,
        "type": "HIDDEN_FIELDS",
        "value": value,
    }


def calculated(label: str, value: Any) -> Json:
    return {**hidden(label, value), "type": "CALCULATED_FIELDS"}


def question(label: str, value: Any, kind: str = "INPUT_TEXT") -> Json:
    return {**hidden(label, value), "type": kind}


FIELDS = (
    hidden("user_id", "ada"),
    hidden("class_id", "algebra"),
    hidden("course_id", "maths"),
    question("Email", "ada@example.org", "INPUT_EMAIL"),
    question("Explain", ESSAY, "TEXTAREA"),
    calculated("score", 8),
)


def webhook(
    *fields: Json,
    response: str = "r1",
    form: str = "wkPz0d",
    at: str = "2026-03-10T10:00:00.000Z",
    **data: Any,
) -> Json:
    """What Tally posts; with the fields of a valid submission if none are given."""
    return {
        "eventId": "a4cb511e-d513-4fa5-baee-b815d718dfd1",
        "eventType": "FORM_RESPONSE",
        "createdAt": "2026-03-10T10:00:01.889Z",
        "data": {
            "responseId": response,
            "submissionId": response,
            "respondentId": "dwQKYm",
            "formId": form,
            "formName": "Algebra",
            "createdAt": at,
            "fields": list(fields or FIELDS),
            **data,
        },
    }


def without_label(label: str) -> list[Json]:
    return [field for field in FIELDS if field["label"] != label]


def signed(body: bytes, secret: str = TALLY_SECRET) -> dict[str, str]:
    return {"Tally-Signature": tally.signature_of(body, secret).decode()}


def submit(collector: Collecting, value: Any, secret: str = TALLY_SECRET) -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return collector.call("POST", "/v1/tally", body, signed(body, secret))


# --------------------------------------------------------------------------------------
# Whose it is
# --------------------------------------------------------------------------------------


def test_a_signed_submission_is_on_disk_and_lands(
    collector: Collecting, warehouse: Warehouse
) -> None:
    answer = submit(collector, webhook())

    assert answer.status == 200
    assert answer.json == {"event_id": "tally-r1", "outcome": "accepted"}
    assert len(collector.raw_lines()) == 1
    collector.land(warehouse)
    [row] = warehouse.records("from raw.lms_event")
    assert (row["event_id"], row["type"]) == ("tally-r1", "QUIZ_SUBMIT")
    assert (row["user_id"], row["class_id"]) == ("ada", "algebra")
    assert (row["course_id"], row["occurred_at"]) == (
        "maths",
        datetime(2026, 3, 10, 10),
    )
    assert json.loads(row["payload"]) == {
        "quiz_id": "wkPz0d",
        "score": 8,
        "max_score": 10,
        "passed": True,
    }


def test_the_signature_is_over_the_bytes_as_they_came(collector: Collecting) -> None:
    body = json.dumps(webhook(), indent=3, ensure_ascii=False).encode() + b"\n"
    assert submit(collector, body).status == 200
    reordered = json.dumps(json.loads(body)).encode()
    answer = collector.call("POST", "/v1/tally", reordered, signed(body))
    assert answer.status == 401


def test_the_signature_is_the_one_that_tally_documents() -> None:
    """base64(HMAC-SHA256), as `openssl dgst -sha256 -hmac key -binary | base64`."""
    assert tally.signature_of(b'{"eventType":"FORM_RESPONSE"}', "key") == (
        b"glJJnz2KR8ps+qnyy4wCBcRtjD7f9NHrGCmybEglhk8="
    )


def test_a_secret_may_be_replaced_while_both_count(tmp_path: Path) -> None:
    with collecting(tmp_path, tally_secrets=("new", "old")) as collector:
        assert submit(collector, webhook(), "new").status == 200
        assert submit(collector, webhook(response="r2"), "old").status == 200
        assert submit(collector, webhook(response="r3"), "older").status == 401


def test_without_a_secret_nothing_is_taken(tmp_path: Path) -> None:
    with collecting(tmp_path, tally_secrets=()) as collector:
        assert submit(collector, webhook(), "").status == 503
        assert collector.raw_lines() == []


def test_too_large_a_submission_is_413(collector: Collecting) -> None:
    large = webhook(question("Explain", "x" * LARGEST_BODY_BYTES))

    assert submit(collector, large).status == 413
    assert collector.raw_lines() == []


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"[]",
        b"{}",
        b'{"eventType": "FORM_RESPONSE"}',
        json.dumps({**webhook(), "eventType": "OTHER"}).encode(),
        json.dumps(webhook(responseId=None)).encode(),
        json.dumps(webhook(response="r" * 300)).encode(),
        json.dumps(webhook(form=" ")).encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_signed_but_no_submission_is_422(
    collector: Collecting, body: bytes
) -> None:
    assert submit(collector, body).status == 422
    assert collector.raw_lines() == []


def attack(chance: Random, genuine: bytes) -> tuple[bytes | list[bytes], Json]:
    """A request that must change nothing: replayed, forged or mutated."""
    signature = signed(genuine)["Tally-Signature"]
    other = json.dumps(webhook(response=f"r{chance.random()}")).encode()
    at = chance.randrange(len(genuine))
    kind = chance.randrange(8)
    if kind == 0:  # replayed
        return genuine, {"Tally-Signature": signature}
    if kind == 1:  # another body with a genuine signature
        return other, {"Tally-Signature": signature}
    if kind == 2:  # one bit of the body
        flipped = bytes([genuine[at] ^ 1 << chance.randrange(8)])
        return genuine[:at] + flipped + genuine[at + 1 :], {
            "Tally-Signature": signature
        }
    if kind == 3:  # one character of the signature
        at = chance.randrange(len(signature) - 2)
        char = "A" if signature[at] != "A" else "B"
        return genuine, {"Tally-Signature": signature[:at] + char + signature[at + 1 :]}
    if kind == 4:  # with another secret
        return other, signed(other, "guess")
    if kind == 5:  # cut short, or with more
        return chance.choice([genuine[:at], genuine + b" ", b""]), {
            "Tally-Signature": signature
        }
    if kind == 6:  # signatures of other kinds
        return other, {
            "Tally-Signature": chance.choice(
                ["", " ", "null", signature[:-1], signature.lower(), "é" * 44]
            )
        }
    return other, {}  # none


def test_10_000_forged_mutated_and_replayed_requests_change_nothing(
    collector: Collecting,
) -> None:
    genuine = [
        json.dumps(webhook(response=f"genuine-{number}")).encode()
        for number in range(5)
    ]
    for body in genuine:
        assert submit(collector, body).status == 200
    before = collector.raw_lines()
    chance = Random(7)
    statuses = set()

    async def attack_all() -> None:
        for _ in range(10_000):
            body, headers = attack(chance, chance.choice(genuine))
            answer = await call_app(collector.app, "POST", "/v1/tally", body, headers)
            statuses.add(answer.status)
            if answer.status == 200:
                assert body in genuine

    asyncio.run(attack_all())

    assert statuses == {200, 401}
    assert collector.raw_lines() == before


# --------------------------------------------------------------------------------------
# Which event it is
# --------------------------------------------------------------------------------------


def mapped(value: Json, text: str = HEADER + ROW) -> Event | Rejection:
    """What landing makes of the webhook with this register."""
    path = Settings.from_environment().quiz_register
    path.write_text(text)
    register = quiz_register.read(path)
    line = tally.line_of(json.dumps(value).encode(), register).decode()
    event = tally.event_of(line, register)
    if isinstance(event, Rejection):
        return event
    return examine(event, datetime(2026, 3, 20))


def reason_of(value: Json, text: str = HEADER + ROW) -> str:
    result = mapped(value, text)
    return result.reason if isinstance(result, Rejection) else "accepted"


def payload_of(value: Json, text: str = HEADER + ROW) -> Json:
    path = Settings.from_environment().quiz_register
    path.write_text(text)
    register = quiz_register.read(path)
    line = tally.line_of(json.dumps(value).encode(), register).decode()
    event = tally.event_of(line, register)
    assert isinstance(event, str), event
    return dict(json.loads(event)["payload"])


@pytest.mark.parametrize("kind", ["INPUT_TEXT", "INPUT_EMAIL", "CALCULATED_FIELDS"])
@pytest.mark.parametrize("keep", ["no", "yes"])
def test_a_visible_question_is_never_taken_for_a_hidden_field(
    kind: str, keep: str
) -> None:
    """Whoever fills the form in could write another learner's id into it."""
    text = HEADER + ROW.replace("no", keep)
    fields = [*without_label("user_id"), question("user_id", "bob", kind)]

    assert reason_of(webhook(*fields), text) == "no_learner"
    both = mapped(webhook(*FIELDS, question("user_id", "bob", kind)), text)
    assert isinstance(both, Event)
    assert both.user_id == "ada"


def test_hidden_fields_are_told_by_label_whatever_their_key() -> None:
    fields = [
        {**field, "key": f"question_{number}"} for number, field in enumerate(FIELDS)
    ]

    assert mapped(webhook(*fields)) == mapped(webhook())
    swapped = [
        hidden("Email", "ada"),
        {**hidden("user_id", "ada"), "key": "question_Email"},
        *without_label("user_id"),
    ]
    assert mapped(webhook(*swapped)) == mapped(webhook())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (without_label("user_id"), "no_learner"),
        ([*without_label("user_id"), hidden("user_id", None)], "no_learner"),
        ([*without_label("user_id"), hidden("user_id", "  ")], "no_learner"),
        ([*without_label("user_id"), hidden("user_id", 7)], "no_learner"),
        ([*without_label("user_id"), hidden("Email", "ada")], "no_learner"),
        ([*FIELDS, hidden("user_id", "bob")], "no_learner"),
        ([*without_label("class_id"), hidden("class_id", "geometry")], "no_class"),
        (without_label("score"), "no_score"),
        ([*without_label("score"), calculated("score", "8")], "no_score"),
        ([*without_label("score"), calculated("score", True)], "no_score"),
        ([*without_label("score"), calculated("points", 8)], "no_score"),
        ([*without_label("score"), hidden("score", 8)], "no_score"),
        ([*without_label("score"), question("score", 8, "INPUT_NUMBER")], "no_score"),
        ([*FIELDS, calculated("score", 9)], "no_score"),
        ([*without_label("score"), calculated("score", 11)], "out_of_range"),
        ([*without_label("score"), calculated("score", -1)], "out_of_range"),
        ([*without_label("user_id"), hidden("user_id", "x" * 257)], "out_of_range"),
        (without_label("course_id"), "accepted"),
        (without_label("class_id"), "accepted"),
    ],
)
def test_what_cannot_be_mapped_has_its_reason(fields: list[Json], reason: str) -> None:
    assert reason_of(webhook(*fields)) == reason


def test_an_unknown_form_and_a_time_that_is_none_have_their_reason() -> None:
    assert reason_of(webhook(form="other")) == "unknown_form"
    assert reason_of(webhook(at="yesterday")) == "bad_timestamp"
    assert reason_of(webhook(createdAt=None)) == "missing_field"


@pytest.mark.parametrize(
    ("score", "maximum", "mark", "passed"),
    [
        (8, "10", "80", True),
        (7.996, "10", "80", False),  # 79.96 %, which rounds to 80
        (0.3, "1", "30", True),  # 0.3 is less than that in binary
        (0.57, "1", "57", True),  # and 0.57 times 100 is 56.99999999999999
        (2, "3", "66.7", False),
        (0, "10", "0", True),
    ],
)
def test_passed_is_the_pass_mark_reached_before_any_rounding(
    score: float, maximum: str, mark: str, passed: bool
) -> None:
    fields = [*without_label("score"), calculated("score", score)]
    row = f"wkPz0d,algebra,score,{maximum},{mark},no\n"

    assert payload_of(webhook(*fields), HEADER + row)["passed"] is passed


def test_a_form_of_several_classes_is_worth_what_the_class_says() -> None:
    rows = HEADER + "".join(
        f"wkPz0d,{name},score,{most},80,no\n"
        for name, most in (("algebra", 10), ("geometry", 20), ("", 40))
    )

    def most_in(*fields: Json) -> Any:
        named = [*without_label("class_id"), *fields]
        return payload_of(webhook(*named), rows)["max_score"]

    assert most_in(hidden("class_id", "algebra")) == 10
    assert most_in(hidden("class_id", "geometry")) == 20
    assert most_in(hidden("class_id", "logic")) == 40
    assert reason_of(webhook(*without_label("class_id")), rows) == "no_class"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
labels = st.sampled_from(["user_id", "class_id", "course_id", "score", "Email"])
kinds = st.sampled_from(
    ["HIDDEN_FIELDS", "CALCULATED_FIELDS", "INPUT_TEXT", "TEXTAREA", "NEW_KIND"]
)
form_fields = st.lists(
    st.fixed_dictionaries(
        {"label": labels | json_values, "type": kinds | json_values,
         "value": json_values | st.just("ada") | st.integers(0, 10)}
    )
    | json_values,
    max_size=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(fields=form_fields, more=st.dictionaries(st.text(max_size=10), json_values))
@example(fields=list(FIELDS), more={})
def test_whatever_comes_it_is_an_event_by_its_contract_or_has_a_reason(
    fields: list[Any], more: Json
) -> None:
    """And an event's learner is that of the one hidden field."""
    ten = Decimal(10)
    quiz = quiz_register.Quiz("wkPz0d", None, "score", ten, ten, False)
    register = QuizRegister((quiz,))
    value = webhook(**{**more, "responseId": "r1", "formId": "wkPz0d"})
    value["data"]["fields"] = fields
    try:
        line = tally.line_of(json.dumps(value).encode(), register).decode()
    except tally.NotASubmission:
        return  # NaN, or text that is no UTF-8
    event = tally.event_of(line, register)
    if isinstance(event, Rejection):
        return
    result = examine(event, datetime(2026, 3, 20))
    if isinstance(result, Event):
        ids = [
            each["value"]
            for each in fields
            if isinstance(each, dict)
            and (each.get("type"), each.get("label")) == ("HIDDEN_FIELDS", "user_id")
        ]
        assert ids == [result.user_id]
        assert result.event_id == "tally-r1"


# --------------------------------------------------------------------------------------
# Landing, retrying, the same again
# --------------------------------------------------------------------------------------


def test_an_unknown_form_is_retried_after_the_register_is_mended(
    collector: Collecting, warehouse: Warehouse, register: Path
) -> None:
    register.write_text(HEADER)
    answer = submit(collector, webhook())
    assert answer.status == 200
    assert (answer.json["outcome"], answer.json["reason"]) == (
        "rejected",
        "unknown_form",
    )
    collector.land(warehouse)
    assert warehouse.rows("select reason, field from raw.dead_letter") == [
        ("unknown_form", "form_id")
    ]
    dead_letters.retry(warehouse.path)
    assert warehouse.value("select attempts from raw.dead_letter") == 2

    register.write_text(HEADER + ROW)
    retried = dead_letters.retry(warehouse.path, Selection(types=(tally.LINE_TYPE,)))

    assert (retried.accepted, retried.rejected) == (1, 0)
    assert warehouse.rows("select event_id, user_id from raw.lms_event") == [
        ("tally-r1", "ada")
    ]
    assert warehouse.rows("from raw.dead_letter") == []


def test_a_wrong_register_stops_no_load_and_is_named(
    collector: Collecting, warehouse: Warehouse, register: Path
) -> None:
    submit(collector, webhook())
    register.write_text(HEADER + "wkPz0d,algebra,score,ten,80,no\n")
    collector.post({"event_id": "x"})
    collector.land(warehouse)

    details = dict(warehouse.rows("select reason, detail from raw.dead_letter"))
    assert details.keys() == {"unknown_form", "missing_field"}
    assert "line 2: max_score: expected a number, got 'ten'" in details["unknown_form"]


def test_the_same_response_is_the_same_submission_always(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    """Tally tries again for 32 hours, whatever the first answer was."""
    for delivery in range(3):
        with collecting(tmp_path) as collector:  # a restart forgets what it has seen
            again = {**webhook(), "eventId": str(delivery), "createdAt": "later"}
            assert submit(collector, again).status == 200
            assert submit(collector, again).status == 200
            submit(collector, webhook(response=f"other-{delivery}"))
            collector.land(warehouse)

    assert warehouse.value("select count(*) from raw.lms_event") == 4
    assert warehouse.value("select sum(duplicate) from raw.load") == 2
    assert warehouse.rows("from raw.dead_letter") == []


# --------------------------------------------------------------------------------------
# What is kept
# --------------------------------------------------------------------------------------

SECRETIVE = (
    *FIELDS,
    calculated("summary", f"{ESSAY}!"),
    question("Choose", [ESSAY], "MULTIPLE_CHOICE"),
    {**calculated("points", 3), "note": ESSAY},
    {**hidden("class_id", "algebra"), "options": [{"text": ESSAY}]},
)


def everything_on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("form", ["wkPz0d", "unknown"])
def test_what_learners_wrote_is_nowhere(
    tmp_path: Path, collector: Collecting, warehouse: Warehouse, form: str
) -> None:
    assert submit(collector, webhook(*SECRETIVE, form=form)).status == 200
    collector.land(warehouse)

    lines = warehouse.rows(
        "select line from raw.lms_event union all "
        "select decode(line) from raw.dead_letter"
    )
    assert len(lines) == 1
    stored = everything_on_disk(tmp_path) + json.dumps(lines).encode()
    for secret in (b"zeppelin", b"example.org", b"dwQKYm"):
        assert secret not in stored


def test_free_text_is_kept_where_the_register_says_so(
    collector: Collecting, warehouse: Warehouse, register: Path
) -> None:
    register.write_text(HEADER + ROW.replace(",no", ",yes"))
    submit(collector, webhook())
    collector.land(warehouse)

    payload = json.loads(warehouse.value("select payload from raw.lms_event"))
    assert {"label": "Explain", "type": "TEXTAREA", "value": ESSAY} in payload[
        "answers"
    ]
    assert len(payload["answers"]) == 2


def test_an_erased_learners_submission_is_not_kept(
    collector: Collecting, warehouse: Warehouse, register: Path
) -> None:
    """Neither mapped nor as a dead letter."""
    from ingest.store import tombstones
    from ingest.store.database import open_for_writing

    with open_for_writing(warehouse.path, make=True) as connection:
        tombstones.put(
            connection, ["ada"], reason="asked", erased_at=datetime(2026, 1, 1)
        )
    submit(collector, webhook())
    submit(collector, webhook(response="r2", form="unknown"))
    submit(
        collector,
        webhook(hidden("user_id", "bob"), *without_label("user_id"), response="r3"),
    )
    collector.land(warehouse)

    assert warehouse.rows("select user_id from raw.lms_event") == [("bob",)]
    assert warehouse.value("select sum(erased) from raw.load") == 2
    assert warehouse.rows("from raw.dead_letter") == []


# --------------------------------------------------------------------------------------
# The register
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("form_id,class_id\n", "line 1: no column score_field, max_score"),
        (f"{HEADER},algebra,score,10,80,no\n", "line 2: form_id: no value"),
        (f"{HEADER}f,algebra,,10,80,no\n", "line 2: score_field: no value"),
        (f"{HEADER}f,a,score,0,80,no\n", "line 2: max_score: expected more than 0"),
        (f"{HEADER}f,a,score,NaN,80,no\n", "line 2: max_score: expected a number"),
        (f"{HEADER}f,a,score,10,101,no\n", "line 2: pass_mark: expected percent"),
        (f"{HEADER}f,a,score,10,80,\n", "keep_free_text: expected yes or no, got ''"),
        (f"{HEADER}{ROW}{ROW}", "line 3: form_id 'wkPz0d' stands twice"),
        (f'{HEADER}"f', "unexpected end of data"),
    ],
)
def test_a_wrong_register_names_line_and_field(
    register: Path, text: str, message: str
) -> None:
    register.write_text(text)
    with pytest.raises(WarehouseError, match=message):
        quiz_register.read(register)


def test_an_edited_register_counts_at_once(
    collector: Collecting, register: Path
) -> None:
    register.write_text(HEADER)
    assert submit(collector, webhook()).json["outcome"] == "rejected"
    register.write_text(HEADER + ROW)
    assert submit(collector, webhook(response="r2")).json["outcome"] == "accepted"


def test_a_submission_long_past_is_taken_and_one_from_tomorrow_is_not() -> None:
    late = datetime(2026, 3, 20, tzinfo=UTC)
    for moment, reason in (
        (late - timedelta(days=900), "accepted"),
        (late + timedelta(hours=25), "out_of_range"),
    ):
        assert reason_of(webhook(at=moment.isoformat())) == reason


# --------------------------------------------------------------------------------------
# Nothing that arrived is lost
# --------------------------------------------------------------------------------------


def test_a_text_that_utf8_cannot_hold_costs_no_score(
    collector: Collecting, warehouse: Warehouse, register: Path
) -> None:
    register.write_text(HEADER + ROW.replace(",no", ",yes"))
    answer = submit(collector, webhook(*FIELDS, question("Why?", "because \ud800")))
    assert (answer.status, answer.json["outcome"]) == (200, "accepted")
    collector.land(warehouse)
    [[line]] = warehouse.rows("select line from raw.lms_event")
    assert "because \N{REPLACEMENT CHARACTER}" in line


@pytest.mark.parametrize("where", ["response", "user_id"])
def test_an_id_that_utf8_cannot_hold_is_a_dead_letter_and_answered(
    collector: Collecting, warehouse: Warehouse, where: str
) -> None:
    fields = [*without_label("user_id"), hidden("user_id", "\ud800")]
    posted = webhook(response="\ud800") if where == "response" else webhook(*fields)
    answer = submit(collector, posted)
    assert (answer.status, answer.json["outcome"]) == (200, "rejected")
    collector.land(warehouse)
    assert warehouse.rows("select reason from raw.dead_letter") == [("invalid_utf8",)]


def test_a_text_takes_up_no_more_room_than_it_came_in(collector: Collecting) -> None:
    """360 KB of é were 1.08 MB of escapes, and refused."""
    fields = [*FIELDS, hidden("note", "é" * 250_000)]
    body = json.dumps(webhook(*fields), ensure_ascii=False).encode()
    assert submit(collector, body).json["outcome"] == "accepted"
    assert len(collector.raw_lines()[0]) < len(body)


def test_answers_that_grow_past_a_line_are_left_out_and_the_score_is_kept(
    collector: Collecting, warehouse: Warehouse, register: Path
) -> None:
    register.write_text(HEADER + ROW.replace(",no", ",yes"))
    numbers = question("Matrix", ["numbers"], "MATRIX")
    body = json.dumps(webhook(*FIELDS, numbers)).encode()
    body = body.replace(b'"numbers"', b",".join([b"1e15"] * 100_000))
    assert submit(collector, body).json["outcome"] == "accepted"
    collector.land(warehouse)
    [[payload]] = warehouse.rows("select payload from raw.lms_event")
    assert json.loads(payload)["score"] == 8


def test_the_register_names_the_fields_of_learner_and_class(
    collector: Collecting, warehouse: Warehouse, register: Path
) -> None:
    fields = [
        hidden("email", "ada"),
        hidden("lesson", "algebra"),
        calculated("score", 8),
    ]
    assert submit(collector, webhook(*fields)).json["outcome"] == "rejected"
    collector.land(warehouse)
    register.write_text(
        f"{HEADER.strip()},learner_field,class_field\n{ROW.strip()},email,lesson\n"
    )
    assert dead_letters.retry(warehouse.path).accepted == 1
    assert warehouse.rows("select user_id, class_id from raw.lms_event") == [
        ("ada", "algebra")
    ]
