"""What was published of each contract, whether today's keeps it, and what was seen.

`schemas/published/<type>_v<version>/<n>.json` are the rules under which a version was
published: the first state, and one more for each change that broke nobody. Files are
only ever added there; one that is changed or deleted takes a promise back.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ingest.contracts.events import (
    Contract,
    contract_name,
    contracts,
    field_names,
    status,
)
from ingest.contracts.generated import (
    SCHEMA_FOLDER,
    as_json_file,
    json_schema,
    schema_file_name,
)
from ingest.errors import WarehouseError
from ingest.store import database

PUBLISHED_FOLDER = SCHEMA_FOLDER / "published"

Json = dict[str, Any]

# For people; what a line must be does not depend on it.
_ANNOTATIONS = ("$schema", "$id", "title", "description", "default")


def rules(contract: Contract) -> Json:
    """All that a payload must satisfy, without what is said about it."""
    return {
        "schema": _without_annotations(json_schema(contract)),
        "at_most": [list(pair) for pair in contract.AT_MOST],
    }


def _without_annotations(schema: Json) -> Json:
    plain: Json = {}
    for keyword, value in schema.items():
        if keyword == "properties":
            plain[keyword] = {
                name: _without_annotations(field) for name, field in value.items()
            }
        elif keyword == "anyOf":
            plain[keyword] = [_without_annotations(option) for option in value]
        elif keyword not in _ANNOTATIONS:
            plain[keyword] = value
    return plain


def published(contract: Contract) -> list[Json]:
    """Every state in which the contract was published, the oldest first."""
    folder = PUBLISHED_FOLDER / contract_name(contract)
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def breaking_changes() -> list[str]:
    """Where a contract no longer keeps what was published; one line each."""
    found = []
    for contract in contracts().values():
        for old in published(contract):
            for change in changes_that_break(old, rules(contract)):
                found.append(f"{contract.TYPE} v{contract.VERSION}: {change}")
    names = {contract_name(contract) for contract in contracts().values()}
    for folder in sorted(PUBLISHED_FOLDER.glob("*")):
        if folder.name not in names:
            found.append(f"{folder.name}: no class has it; versions are read for ever")
    return list(dict.fromkeys(found))


def new_states() -> dict[Path, str]:
    """The files to add for what was not published yet, with their text.

    Raises `WarehouseError` for a breaking change: that needs a new version.
    """
    if broken := breaking_changes():
        raise WarehouseError(
            "breaks what was published; leave that class as it was and add a new "
            f"version (docs/versions.md): {'; '.join(broken)}"
        )
    files = {}
    for contract in contracts().values():
        states = published(contract)
        if not states or states[-1] != rules(contract):
            path = (
                PUBLISHED_FOLDER / contract_name(contract) / f"{len(states) + 1}.json"
            )
            files[path] = as_json_file(rules(contract))
    return files


def changes_that_break(old: Json, new: Json) -> list[str]:
    """What differs so that a line may be refused, or a reader may miss a field.

    A new optional field and a looser bound break nobody.
    """
    added = [pair for pair in new["at_most"] if pair not in old["at_most"]]
    return [
        *_changes(old["schema"], new["schema"], ""),
        *(f"payload.{field}: new rule <= {other}" for field, other in added),
    ]


def _changes(old: Json, new: Json, prefix: str) -> Iterator[str]:
    """Of two object schemas."""
    for name, field in old["properties"].items():
        place = f"{prefix}{name}"
        if name not in new["properties"]:
            yield f"{place}: removed"
            continue
        if name in old["required"] and name not in new["required"]:
            yield f"{place}: was required, is optional"
        if name not in old["required"] and name in new["required"]:
            yield f"{place}: was optional, is required"
        if "properties" in field:
            yield from _changes(field, new["properties"][name], f"{place}.")
        else:
            yield from _field_changes(field, new["properties"][name], place)
    for name in new["required"]:
        if name not in old["properties"]:
            yield f"{prefix}{name}: new and required"


def _field_changes(old: Json, new: Json, place: str) -> Iterator[str]:
    (old, old_null), (new, new_null) = _unwrapped(old), _unwrapped(new)
    if old_null != new_null:
        yield f"{place}: null was {_allowed(old_null)}, is {_allowed(new_null)}"
    if _lowest(new) > _lowest(old):
        yield f"{place}: the lower bound was raised"
    if _highest(new) < _highest(old):
        yield f"{place}: the upper bound was lowered"
    for keyword in sorted((old.keys() | new.keys()) - _BOUNDS):
        was, now = old.get(keyword), new.get(keyword)
        if was != now and not (now is None and keyword in ("pattern", "format")):
            yield f"{place}: {keyword} was {was}, is {now}"


def _unwrapped(schema: Json) -> tuple[Json, bool]:
    """The schema of what is not null, and whether null is allowed, too."""
    options = schema.get("anyOf", [schema])
    plain = [option for option in options if option != {"type": "null"}]
    return plain[0] if len(plain) == 1 else schema, len(plain) < len(options)


def _allowed(allowed: bool) -> str:
    return "allowed" if allowed else "refused"


_BOUNDS = {
    *("minimum", "exclusiveMinimum", "minLength"),
    *("maximum", "exclusiveMaximum", "maxLength"),
}


def _lowest(schema: Json) -> tuple[float, float]:
    """The lower bound in an order in which the stricter is the greater."""
    no_bound = float("-inf")
    return max(
        (schema.get("minimum", no_bound), 0),
        (schema.get("exclusiveMinimum", no_bound), 1),
        (schema.get("minLength", no_bound), 0),
    )


def _highest(schema: Json) -> tuple[float, float]:
    """The upper bound in an order in which the stricter is the smaller."""
    no_bound = float("inf")
    return min(
        (schema.get("maximum", no_bound), 0),
        (schema.get("exclusiveMaximum", no_bound), -1),
        (schema.get("maxLength", no_bound), 0),
    )


@dataclass(frozen=True)
class Usage:
    """One version of an event type, and what of it was accepted.

    `rows_seen` and `last_seen` (when the newest was received, UTC) are None without a
    warehouse. `fields` and `schema` are None for rows of which the class is gone.
    """

    type: str
    version: int
    status: str
    rows_seen: int | None
    last_seen: datetime | None
    fields: str | None
    schema: str | None


def usage(warehouse_path: Path) -> list[Usage]:
    """Every contract, and every version that the warehouse has rows of.

    Raises `WarehouseError` when there is a warehouse that cannot be read.
    """
    seen: dict[tuple[str, int], tuple[int, datetime | None]] | None = None
    if warehouse_path.exists():
        with database.open_for_reading(warehouse_path) as connection:
            rows = connection.execute(
                """
                select type, schema_version, count(*), max(received_at)
                from raw.lms_event
                group by type, schema_version
                """
            ).fetchall()
        seen = {(kind, version): (count, last) for kind, version, count, last in rows}
    found = []
    for key in sorted({*contracts(), *(seen or {})}):
        contract = contracts().get(key)
        rows_seen, last_seen = (
            (None, None) if seen is None else seen.get(key, (0, None))
        )
        found.append(
            Usage(
                *key,
                status(contract) if contract else "no class has it",
                rows_seen,
                last_seen,
                ", ".join(field_names(contract)) if contract else None,
                str(SCHEMA_FOLDER / schema_file_name(contract)) if contract else None,
            )
        )
    return found
