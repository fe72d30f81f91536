"""The quiz register: what a form's submission is worth, as people write it down.

A CSV file at `LMS_QUIZ_REGISTER`, or else `quiz_register.csv` in the landing zone:

    form_id,class_id,score_field,max_score,pass_mark,keep_free_text
    wkPz0d,algebra,score,10,80,no

One row for each form, or for each class that a form is used in. An empty `class_id`
stands for whichever class the submission names; `score_field` is the label of the
form's calculated field; `pass_mark` is in percent. The columns `learner_field` and
`class_field` may follow: the hidden fields that name the learner and the class, where
they are called otherwise than `user_id` and `class_id`.
"""

import csv
import io
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from ingest.errors import WarehouseError
from ingest.store.files import read_regular

COLUMNS = (
    *("form_id", "class_id", "score_field", "max_score", "pass_mark"),
    "keep_free_text",
)
OPTIONAL_COLUMNS = ("learner_field", "class_field")


@dataclass(frozen=True)
class Quiz:
    """One row. `class_id` is None for whichever class a submission names.

    `learner_field` and `class_field` are the form's hidden fields that name them.
    """

    form_id: str
    class_id: str | None
    score_field: str
    max_score: Decimal
    pass_mark: Decimal
    keep_free_text: bool
    learner_field: str = "user_id"
    class_field: str = "class_id"

    def is_passed(self, score: float) -> bool:
        """Compared as decimals, before any rounding: 79.96 % is no 80 %."""
        return Decimal(repr(score)) * 100 >= self.pass_mark * self.max_score


@dataclass(frozen=True)
class QuizRegister:
    quizzes: tuple[Quiz, ...] = ()

    def of_form(self, form_id: str) -> tuple[Quiz, ...]:
        return tuple(quiz for quiz in self.quizzes if quiz.form_id == form_id)

    def quiz(self, form_id: str, class_id: str) -> Quiz | None:
        """The form's row for the class, or else the one for any class."""
        rows = {quiz.class_id: quiz for quiz in self.of_form(form_id)}
        return rows.get(class_id) or rows.get(None)

    def keeps_free_text(self, form_id: str) -> bool:
        """Only if each row of the form says so."""
        rows = self.of_form(form_id)
        return bool(rows) and all(quiz.keep_free_text for quiz in rows)


NO_QUIZZES = QuizRegister()


def read(path: Path) -> QuizRegister:
    """No file, no forms. Raises `WarehouseError` that names the line and the field."""
    try:
        text = read_regular(path).decode("utf-8-sig")
    except FileNotFoundError:
        return QuizRegister()
    except (OSError, ValueError) as error:
        raise WarehouseError(f"{path}: cannot be read ({error})") from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    quizzes: dict[tuple[str, str | None], Quiz] = {}
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise WarehouseError(
                f"{path}: line 1: no column {', '.join(missing)}; expected "
                f"{','.join(COLUMNS)}"
            )
        for row in reader:
            place = f"{path}: line {reader.line_num}"
            quiz = _quiz(row, place)
            key = (quiz.form_id, quiz.class_id)
            if key in quizzes:
                raise WarehouseError(
                    f"{place}: form_id {quiz.form_id!r} stands twice for one class"
                )
            quizzes[key] = quiz
    except csv.Error as error:
        raise WarehouseError(f"{path}: line {reader.line_num}: {error}") from error
    return QuizRegister(tuple(quizzes.values()))


def _quiz(row: dict[str, str | None], place: str) -> Quiz:
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    for name in ("form_id", "score_field"):
        if not values[name]:
            raise WarehouseError(f"{place}: {name}: no value")
    max_score = _number(values["max_score"], f"{place}: max_score")
    pass_mark = _number(values["pass_mark"], f"{place}: pass_mark")
    if max_score <= 0:
        raise WarehouseError(f"{place}: max_score: expected more than 0")
    if not 0 <= pass_mark <= 100:
        raise WarehouseError(f"{place}: pass_mark: expected percent, 0 to 100")
    if values["keep_free_text"] not in ("yes", "no"):
        raise WarehouseError(
            f"{place}: keep_free_text: expected yes or no, got "
            f"{values['keep_free_text']!r}"
        )
    return Quiz(
        form_id=values["form_id"],
        class_id=values["class_id"] or None,
        score_field=values["score_field"],
        max_score=max_score,
        pass_mark=pass_mark,
        keep_free_text=values["keep_free_text"] == "yes",
        **{
            name: value.strip()
            for name in OPTIONAL_COLUMNS
            if (value := row.get(name)) and value.strip()
        },
    )


def _number(text: str, place: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise WarehouseError(f"{place}: expected a number, got {text!r}") from None
    if not number.is_finite() or abs(number) > 10**9:
        raise WarehouseError(f"{place}: expected a number, got {text!r}")
    return number
