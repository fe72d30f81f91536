"""The loader's JSON is the grammar's, and docs/json.md says what it is."""

from tests.support.json_texts import ACCEPT, BEGIN, DOCUMENT, END, REJECT, rows, table


def test_what_the_grammar_says_is_what_the_loader_does() -> None:
    wrong = [
        (kind, text, ours)
        for kind, text, ours, _, _ in rows()
        if (kind == ACCEPT and ours != "accepted")
        or (kind == REJECT and ours == "accepted")
    ]
    assert wrong == []


def test_the_table_of_the_documentation_is_what_the_loader_does() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document.split(BEGIN)[1].split(END)[0] == table()
