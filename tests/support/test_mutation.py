"""What `make mutation` does to a rule, and that it leaves the project as it was."""

import time
from pathlib import Path

import pytest

from tests.support.mutation import sql_rules
from tests.support.mutation.workshop import Mutant, Workshop

MODEL = """\
-- The first of all: order by day, id
select
    min(amount) as least, {{ days_before('day', 2) }} as since,
    coalesce(name, upper('a >= 1')) as name
from orders
left join names on orders.id = names.id
where amount >= 10
qualify row_number() over (partition by id, kind order by day, line) = 1
"""


def changed(text: str, file: str = "model.sql") -> set[tuple[str, str]]:
    """The rule of each mutant, and the lines that are others in it."""
    lines = set(text.splitlines())
    return {
        (mutant.rule, line.strip())
        for mutant in sql_rules.mutants(text, file)
        for line in mutant.applied(text).splitlines()
        if line not in lines
    }


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("comparison", "where amount > 10"),
        ("threshold", "where amount >= 11"),
        ("join", "inner join names on orders.id = names.id"),
        ("coalesce", "(name) as name"),
        ("tie-break", "max(amount) as least, {{ days_before('day', 2) }} as since,"),
        *(
            (rule, f"qualify row_number() over ({window}) = 1")
            for rule, window in [
                ("window", "partition by id order by day, line"),
                ("window", " order by day, line"),
                ("tie-break", "partition by id, kind order by day"),
                ("tie-break", "partition by id, kind order by day, line desc"),
            ]
        ),
    ],
)
def test_each_kind_of_rule_is_mutated(rule: str, line: str) -> None:
    assert (rule, line) in changed(MODEL)


def test_a_comment_jinja_or_a_quoted_text_is_no_rule() -> None:
    assert changed("-- a >= 1 order by a, b\nselect '1 < 2', {{ f(1 > 2) }}\n") == set()


def test_of_a_python_file_its_sql_is_mutated_and_nothing_else() -> None:
    code = '''\
def query(limit: int = 3) -> str:
    """Rows where a >= 1, and more than 2."""
    if limit > 4:  # and a <= 5
        raise ValueError("more than 4")
    return f"select 'é' from t where a >= {limit + 6} limit 7"
'''
    line = "return f\"select 'é' from t where a {} {{limit + 6}} limit {}\""
    assert changed(code, "query.py") == {
        ("comparison", line.format(">", 7)),
        ("threshold", line.format(">=", 8)),
    }


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    project = tmp_path / "project"
    (project / "ingest").mkdir(parents=True)
    (project / "ingest/__init__.py").touch()
    (project / "ingest/rule.py").write_text("def is_large(n):\n    return n >= 10\n")
    return Workshop(project, tmp_path / "copy")


def mutant(old: str, new: str) -> Mutant:
    start = "def is_large(n):\n    return n >= 10\n".index(old)
    return Mutant("ingest/rule.py", "test", start, start + len(old), new)


def ten_is_large() -> int:
    import importlib

    return 0 if importlib.import_module("ingest.rule").is_large(10) else 1


def test_a_mutant_is_killed_by_a_test_that_fails_and_else_survives(
    workshop: Workshop,
) -> None:
    assert workshop.run([ten_is_large], 60) == 0
    assert workshop.is_killed(mutant(">=", ">"), [ten_is_large], 60)
    assert workshop.is_killed(mutant("return", "retrun"), [ten_is_large], 60)
    assert not workshop.is_killed(mutant("10", "9"), [ten_is_large], 60)


def test_a_mutant_that_never_ends_is_killed(workshop: Workshop) -> None:
    def waits() -> int:
        time.sleep(600)
        return 0

    assert workshop.is_killed(mutant("10", "9"), [waits], 0.5)


def test_a_mutated_file_is_put_back_whatever_happens(
    workshop: Workshop, tmp_path: Path
) -> None:
    def copy() -> str:
        return (workshop.folder / "ingest/rule.py").read_text()

    before = copy()
    with workshop.mutated(mutant(">=", ">")):
        assert "n > 10" in copy()
    assert copy() == before
    with pytest.raises(KeyboardInterrupt), workshop.mutated(mutant(">=", ">")):
        raise KeyboardInterrupt
    assert copy() == before
    assert (tmp_path / "project/ingest/rule.py").read_text() == before
