"""Texts that JSON's grammar (RFC 8259) accepts, rejects or leaves open, and what the
loader, Python and DuckDB make of each: the table of docs/json.md.

`python -m tests.support.json_texts` writes the table anew.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb

from tests.support.builders import Warehouse, as_line, ping

DOCUMENT = Path(__file__).parents[2] / "docs" / "json.md"
BEGIN, END = (
    "<!-- made by tests/support/json_texts.py -->\n",
    "<!-- end of the table -->",
)

ACCEPT, REJECT, OPEN = "accept", "reject", "open"

# What the grammar says, and the texts; each is the value of an unknown payload field.
TEXTS: dict[str, list[bytes]] = {
    ACCEPT: [
        *(b"null", b"true", b"0", b"-0", b"0.1", b"1e5", b"1E+5", b"1e-5", b"-1.5e0"),
        *(b'""', b'"a"', rb'"\""', rb'"\\"', rb'"\/"', rb'"\b\f\n\r\t"', rb'"\u0061"'),
        *(rb'"\u0000"', rb'"\uD83D\uDE00"', '"\N{GRINNING FACE}"'.encode(), b'"\x7f"'),
        *('"\u2028"'.encode(), b"[]", b"{}", b"[1, 2]", b'{"a": {"b": [1]}}'),
        *(b"[\t1 ]", b'{"": 1}', b"[" * 100 + b"]" * 100),
    ],
    REJECT: [
        *(b"", b"01", b"-", b"+1", b"1.", b".5", b"1e", b"0x1", b"1_000", b"--1"),
        *(b"NaN", b"Infinity", b"-Infinity", b"True", b"nul", b"undefined"),
        *(b"'a'", b'"a', rb'"\x"', rb'"\u12"', rb'"\u00zz"', b'"\t"', b'"\x01"'),
        *(b"[1,]", b"[,1]", b"[1 2]", b"[", b"]", b"[1}", b'{"a":1,}', b'{"a"}'),
        *(b"{a: 1}", b"{1: 1}", b'{"a" 1}', b'{"a"::1}', b"1 2", b"/* c */ 1"),
        *(b"1 // c", b"[1]]", b"\xff", b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"'),
        *(b'"\xf4\x90\x80\x80"', b"\xc2\xa01", b"\x0c1"),
    ],
    OPEN: [
        *(rb'"\uD800"', rb'"\uDE00\uD83D"', b"1e999", b"-1e999", b"1e-999"),
        *(b"123456789012345678901234567890", b"0.1234567890123456789012345"),
        *(b'{"a": 1, "a": 2}', b"[" * 600 + b"]" * 600, b'"\xef\xbf\xbf"'),
    ],
}


def line(text: bytes, number: int) -> bytes:
    made = as_line(ping(f"e{number}", payload={"x": "HERE"}))
    return made.replace(b'"HERE"', text)


def decisions(texts: list[bytes]) -> list[str]:
    """What the loader says to each: `accepted`, or the reason."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(Path(folder))
        warehouse.land(line(text, number) for number, text in enumerate(texts))
        found: dict[int, str] = dict(
            warehouse.rows(
                "select line_number, 'accepted' from raw.lms_event union all "
                "select line_number, reason from raw.dead_letter"
            )
        )
    return [found[number] for number in range(1, len(texts) + 1)]


def by_python(text: bytes) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return REJECT
    return ACCEPT


def by_duckdb(text: bytes) -> str:
    try:
        [[valid]] = duckdb.execute(
            "select json_valid(decode($1::blob))", [text]
        ).fetchall()
    except duckdb.Error:
        return REJECT
    return ACCEPT if valid else REJECT


def rows() -> Iterator[tuple[str, bytes, str, str, str]]:
    """The grammar, the text, the loader's decision, Python's, DuckDB's."""
    pairs = [(kind, text) for kind, texts in TEXTS.items() for text in texts]
    decided = decisions([text for _, text in pairs])
    for (kind, text), ours in zip(pairs, decided, strict=True):
        yield kind, text, ours, by_python(text), by_duckdb(text)


def table() -> str:
    lines = ["| grammar | text | loader | Python | DuckDB |", "|---|---|---|---|---|"]
    for kind, text, ours, python, engine in rows():
        shown = repr(text)[2:-1].replace("|", r"\|") or "(nothing)"
        if len(shown) > 40:
            shown = f"{shown[:12]}… ({len(text)} bytes)"
        lines.append(f"| {kind} | `` {shown} `` | {ours} | {python} | {engine} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    before, rest = document.split(BEGIN)
    DOCUMENT.write_text(
        f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
