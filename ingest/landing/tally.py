"""Tally's webhook: whether it is Tally's, what of it is kept, and which event it is.

The collector keeps a submission as a line of its own (`line_of`), without what learners
wrote; landing makes the QUIZ_SUBMIT of it (`event_of`) with the quiz register as it
stands then. A line that cannot be mapped is a dead letter like any other, and a retry
maps it again.
"""

import base64
import hmac
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest.contracts.events import QuizSubmitV1
from ingest.contracts.validation import Rejection, parse_json
from ingest.errors import WarehouseError
from ingest.landing import quiz_register
from ingest.landing.quiz_register import Quiz, QuizRegister
from ingest.settings import Settings

# The type of a line that holds a submission. No contract has it.
LINE_TYPE = "TALLY_SUBMISSION"

LEARNER, CLASS, COURSE = "user_id", "class_id", "course_id"
_HIDDEN = "HIDDEN_FIELDS"
_CALCULATED = "CALCULATED_FIELDS"
_LONGEST_RESPONSE_ID = 200


class NotASubmission(Exception):
    """A body that Tally signed and that is no form's response; one line says why."""


def is_signed(body: bytes, signature: str, secrets: Sequence[str]) -> bool:
    """Whether one of the signing secrets made the signature of exactly these bytes."""
    given = signature.encode(errors="surrogateescape")
    matches = [
        hmac.compare_digest(signature_of(body, secret), given) for secret in secrets
    ]
    return any(matches)


def signature_of(body: bytes, secret: str) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256"))


# --- what is kept --------------------------------------------------------------------


def line_of(body: bytes, register: QuizRegister) -> bytes:
    """The submission as a line for the spool, without newline.

    Kept are the ids and times, the hidden fields, which the page sets, and calculated
    numbers; a calculated text may repeat what was written. The rest is kept only of
    forms whose free text the register keeps. Raises `NotASubmission`.
    """
    try:
        webhook = parse_json(body.decode())
    except ValueError as error:
        raise NotASubmission(f"not JSON ({error})") from None
    data = webhook.get("data") if isinstance(webhook, dict) else None
    if not isinstance(data, dict) or webhook.get("eventType") != "FORM_RESPONSE":
        raise NotASubmission("no FORM_RESPONSE")
    response_id, form_id = data.get("responseId"), data.get("formId")
    for name, value in (("responseId", response_id), ("formId", form_id)):
        if not isinstance(value, str) or not value.strip():
            raise NotASubmission(f"data.{name}: not a text")
    if len(str(response_id)) > _LONGEST_RESPONSE_ID:
        raise NotASubmission(
            f"data.responseId: more than {_LONGEST_RESPONSE_ID} characters"
        )
    fields = list(_fields(data))
    if not register.keeps_free_text(str(form_id)):
        fields = [
            {name: each[name] for name in ("key", "label", "type", "value")}
            for each in fields
            if _is_harmless(each)
        ]
    kept = {
        "type": LINE_TYPE,
        "event_id": f"tally-{response_id}",
        "submission": {
            "formId": form_id,
            "responseId": response_id,
            "createdAt": data.get("createdAt"),
            "fields": fields,
        },
    }
    try:
        return _as_line(kept)
    except ValueError as error:
        raise NotASubmission(str(error)) from None


def _as_line(value: dict[str, Any]) -> bytes:
    """As compact as what came: no escapes, but of what UTF-8 cannot hold."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _in_utf8(value: Any) -> Any:
    """Free text with U+FFFD in place of what UTF-8 cannot hold."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_in_utf8(each) for each in value]
    if isinstance(value, dict):
        return {_in_utf8(name): _in_utf8(each) for name, each in value.items()}
    return value


def _fields(submission: dict[str, Any]) -> Iterator[dict[str, Any]]:
    fields = submission.get("fields")
    for each in fields if isinstance(fields, list) else ():
        if (
            isinstance(each, dict)
            and isinstance(each.get("label"), str)
            and isinstance(each.get("type"), str)
        ):
            each = {"key": None, "value": None, **each}
            # An id that UTF-8 cannot hold is none; a text is kept but for that.
            yield each if each["type"] == _HIDDEN else _in_utf8(each)


def _is_harmless(each: dict[str, Any]) -> bool:
    if each["type"] == _HIDDEN:
        return True
    return each["type"] == _CALCULATED and _is_number(each["value"])


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    )


# --- which event it is ---------------------------------------------------------------


def is_submission(line: str) -> bool:
    """Whether landing maps the line; most lines are told apart by a look for a word."""
    if LINE_TYPE not in line and "\\" not in line:
        return False
    try:
        value = parse_json(line)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("type") == LINE_TYPE


@dataclass
class Mapping:
    """Maps submissions with the register as it stands at the first of them."""

    path: Path = field(
        default_factory=lambda: Settings.from_environment().quiz_register
    )
    _register: QuizRegister | WarehouseError | None = None

    def event_of(self, line: str) -> str | Rejection:
        """The line of the QUIZ_SUBMIT, or why there is none."""
        if self._register is None:
            try:
                self._register = quiz_register.read(self.path)
            except WarehouseError as error:
                self._register = error
        if isinstance(self._register, WarehouseError):
            return Rejection("unknown_form", "form_id", str(self._register))
        return event_of(line, self._register)


def event_of(line: str, register: QuizRegister) -> str | Rejection:
    """The QUIZ_SUBMIT that the submission in `line` is, as a line for the contracts.

    The same `responseId` always gives the same `event_id`.
    """
    value = parse_json(line)
    submission = value.get("submission")
    if not isinstance(submission, dict):
        return Rejection("missing_field", "submission", "not an object")
    form_id = submission.get("formId")
    quizzes = register.of_form(form_id) if isinstance(form_id, str) else ()
    if not quizzes:
        detail = f"form {form_id!r} is not in the quiz register; add it, then retry"
        return Rejection("unknown_form", "form_id", detail)
    fields = list(_fields(submission))
    quiz = _quiz_for(quizzes, fields)
    if isinstance(quiz, Rejection):
        return quiz
    user_id = _hidden(fields, quiz.learner_field)
    if user_id is None:
        return Rejection("no_learner", LEARNER, _no_hidden(quiz.learner_field))
    scores = [
        each["value"]
        for each in fields
        if each["type"] == _CALCULATED and each["label"] == quiz.score_field
    ]
    if len(scores) != 1 or not _is_number(scores[0]):
        detail = f"no calculated field {quiz.score_field!r} with one number"
        return Rejection("no_score", "score", detail)
    payload: dict[str, Any] = {
        "quiz_id": form_id,
        "score": scores[0],
        "max_score": _plain(quiz),
        "passed": quiz.is_passed(scores[0]),
    }
    if quiz.keep_free_text:
        payload["answers"] = [
            {name: each[name] for name in ("label", "type", "value")}
            for each in fields
            if each["type"] not in (_HIDDEN, _CALCULATED)
        ]
    event = {
        "event_id": f"tally-{submission.get('responseId')}",
        "type": QuizSubmitV1.TYPE,
        "schema_version": QuizSubmitV1.VERSION,
        "user_id": user_id,
        "class_id": quiz.class_id or _hidden(fields, quiz.class_field),
        "course_id": _hidden(fields, COURSE),
        "occurred_at": submission.get("createdAt"),
        "payload": payload,
        "source": "tally",
    }
    return _as_line(event).decode()


def _hidden(fields: Sequence[dict[str, Any]], label: str) -> str | None:
    """The value of the one hidden field of that name. Keys are opaque; and a visible
    question may have any label, so the type counts too."""
    values = [
        f["value"] for f in fields if f["type"] == _HIDDEN and f["label"] == label
    ]
    if len(values) == 1 and isinstance(values[0], str) and values[0].strip():
        return str(values[0])
    return None


def _no_hidden(label: str) -> str:
    return f"no hidden field {label!r} with a value, or several"


def _quiz_for(
    quizzes: Sequence[Quiz], fields: Sequence[dict[str, Any]]
) -> Quiz | Rejection:
    """The row for the class; one for whichever class is second to one that names it."""
    named = [(quiz, _hidden(fields, quiz.class_field)) for quiz in quizzes]
    for quiz, class_id in named:
        if class_id is not None and class_id == quiz.class_id:
            return quiz
    for quiz, class_id in named:
        if class_id is not None and quiz.class_id is None:
            return quiz
    [(quiz, class_id), *others] = named
    if class_id is None:
        if not others and quiz.class_id is not None:
            return quiz
        return Rejection("no_class", CLASS, _no_hidden(quiz.class_field))
    detail = f"the quiz register has the form for other classes than {class_id!r}"
    return Rejection("no_class", CLASS, detail)


def _plain(quiz: Quiz) -> int | float:
    number = quiz.max_score
    return int(number) if number == number.to_integral_value() else float(number)
