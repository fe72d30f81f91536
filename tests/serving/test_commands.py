"""The commands `warehouse why` and `warehouse snapshot`: exit codes, words and JSON."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from orchestration.cli import main
from serving import formats
from serving.reader import Reader
from tests.support.builders import Warehouse, ping
from tests.support.demo import Demo
from tests.support.snapshot import publish_without_dbt

CLASS = "python-first-steps/project"
FAILING = "fails-four-times"


class Command:
    """The command as the shell has it, in this process: to start one takes a second."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self._capsys = capsys
        self._patch = patch

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Its exit code, and what it wrote on standard output and on standard error."""
        self._patch.setattr(sys, "argv", ["warehouse", *arguments])
        before = os.umask(0o022)
        os.umask(before)
        with pytest.raises(SystemExit) as ended:
            main()
        os.umask(before)  # which a command makes stricter
        return int(ended.value.code or 0), *self._capsys.readouterr()

    def json(self, *arguments: str) -> Any:
        code, written, said = self(*arguments, "--json")
        assert (code, said) == (0, "")
        return json.loads(written)

    def error(self, *arguments: str, code: int = 1) -> str:
        ended, written, said = self(*arguments)
        assert (ended, written) == (code, "")
        return said.strip()


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    return Command(capsys, monkeypatch)


@pytest.fixture
def published(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Events of three learners, published; readers find them there."""
    warehouse.land([ping(f"e-{n}", user=f"learner-{n}") for n in (1, 2, 3)])
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    return publish_without_dbt(warehouse)


def test_why_says_in_a_table_and_in_json_what_is_missing(
    demo: Demo, reader: Reader, command: Command
) -> None:
    best = reader.row(
        "select submission_count as n, best_score_ratio as ratio "
        "from projections.prj_quiz_result where user_id = $user and class_id = $class",
        **{"user": FAILING, "class": CLASS},
    )
    said = (
        f"{best['n']} submissions, best {formats.plain(best['ratio'] * 100)} %; "
        "the lowest that passed has"
    )
    answer = command.json("why", FAILING, CLASS)
    assert (answer["user_id"], answer["class_id"]) == (FAILING, CLASS)
    assert answer["is_done"] is False
    assert answer["because"] == "the quiz is missing"
    [part] = answer["parts"]
    assert (part["part"], part["is_done"]) == ("quiz", False)
    assert part["because"].startswith(said)

    code, shown, _ = command("why", FAILING, CLASS)
    assert code == 0
    assert f"{CLASS} ({answer['title']}): the quiz is missing" in shown
    assert " ".join(said.split()[:2]) in shown


def test_why_names_in_one_line_a_learner_or_a_class_that_does_not_exist(
    demo: Demo, command: Command
) -> None:
    assert command.error("why", "nobody", CLASS) == (
        "error: nobody: no event of this learner has arrived; `warehouse query "
        '"select user_id from monitoring.v_user_activity"` lists the learners'
    )
    assert command.error("why", FAILING, "nowhere") == (
        "error: nowhere: no such class in the catalogue, and no event of it; "
        '`warehouse query "from catalogue.catalogue_class"` lists the classes'
    )
    assert "Missing argument 'CLASS'" in command.error("why", FAILING, code=2)


def test_snapshot_says_what_is_published(published: Path, command: Command) -> None:
    answer = command.json("snapshot")
    assert (answer["path"], answer["load_id"]) == (str(published), 1)
    for option in ("--output=copy.duckdb", "--key-file=key"):
        said = command.error("snapshot", option, code=2)
        assert "--without-names" in said


def test_a_copy_without_names_has_the_same_hashes_with_the_same_key(
    published: Path, tmp_path: Path, command: Command
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"a key of this test alone")

    def learners(name: str, *options: str) -> list[Any]:
        path = tmp_path / name
        answer = command.json(
            "snapshot", "--without-names", f"--output={path}", *options
        )
        assert (answer["path"], answer["learners"]) == (str(path), 3)
        assert answer["bytes"] == path.stat().st_size
        assert b"learner-1" not in path.read_bytes()
        with duckdb.connect(str(path), read_only=True) as copy:
            return copy.execute(
                "select user_id from projections.prj_example order by all"
            ).fetchall()

    keyed = learners("a.db", f"--key-file={key}")
    assert len(keyed) == 3
    assert learners("b.db", f"--key-file={key}") == keyed
    assert learners("c.db") != keyed


def test_a_copy_without_names_replaces_nothing_and_names_a_bad_key(
    published: Path, tmp_path: Path, command: Command
) -> None:
    (there := tmp_path / "there.csv").write_text("mine")
    (short := tmp_path / "short").write_bytes(b"short")
    options = ("snapshot", "--without-names")
    new = tmp_path / "new.db"
    for arguments, said in (
        ([f"--output={there}"], f"{there}: is there already; give another --output"),
        (
            [f"--output={new}", f"--key-file={short}"],
            f"{short}: a key has 16 bytes or more; this has 5",
        ),
        (
            [f"--output={new}", f"--key-file={tmp_path / 'none'}"],
            f"{tmp_path / 'none'}: cannot be read (No such file or directory)",
        ),
    ):
        assert command.error(*options, *arguments) == f"error: {said}"
    inside = published.with_name("copy.db")
    assert "keeps for its own files" in command.error(*options, f"--output={inside}")
    assert there.read_text() == "mine"
    assert not new.exists()
