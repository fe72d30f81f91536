"""Landing skill files: which classes teach which skill. One CSV file is one load.

The newest file holds; those before are kept. Without one, nobody masters anything.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ingest.errors import WarehouseError
from ingest.landing import catalogue, lines, loads
from ingest.store import database, journal

_COLUMNS = ("class_id", "skill_id")


@dataclass(frozen=True)
class SkillLoad:
    """What happened to a skill file; if it was `known`, it is the newest already."""

    file: str
    load_id: int
    known: bool
    classes: int
    skills: int


def land_skills(
    path: Path, warehouse_path: Path, *, received_at: datetime | None = None
) -> SkillLoad:
    """Lands one skill file: all of it or, when a row is wrong, nothing.

    A file with the content of the newest one is not landed again. Raises
    `WarehouseError`.
    """
    started = time.perf_counter()
    content, mtime_ns = catalogue.read_csv(path)
    pairs = _pairs_in(path, content)
    file_sha256 = lines.sha256_hex(content)
    class_ids, skill_ids = ([*column] for column in zip(*pairs, strict=True))

    def load(load_id: int, *, known: bool) -> SkillLoad:
        return SkillLoad(
            str(path), load_id, known, len(set(class_ids)), len(set(skill_ids))
        )

    with database.open_for_writing(warehouse_path, make=True) as connection:
        newest = connection.execute(
            "select load_id, file_sha256 from raw.load where kind = 'skills' "
            "order by load_id desc limit 1"
        ).fetchall()
        if newest and newest[0][1] == file_sha256:
            return load(newest[0][0], known=True)
        load_id = loads.next_load_id(connection)
        with database.transaction(connection):
            connection.execute(
                "insert into raw.class_skill select $1, unnest($2), unnest($3)",
                [load_id, class_ids, skill_ids],
            )
            loads.record_load(
                connection,
                load_id,
                "skills",
                lines.name_of(path),
                file_sha256,
                file_bytes=len(content),
                file_mtime_ns=mtime_ns,
                received_at=received_at or database.utc_now(),
                seconds=round(time.perf_counter() - started, 3),
            )
        journal.note_loads(connection)
    return load(load_id, known=False)


def _pairs_in(path: Path, content: bytes) -> list[tuple[str, str]]:
    seen: dict[tuple[str, str], int] = {}
    for line_number, values in catalogue.csv_rows(path, content, _COLUMNS):
        place = f"{path}: line {line_number}"
        for name in _COLUMNS:
            catalogue.check_id(values, name, place)
        pair = values["class_id"], values["skill_id"]
        if pair in seen:
            raise WarehouseError(
                f"{place}: the same class and skill stand at line {seen[pair]} "
                "already; keep one of them"
            )
        seen[pair] = line_number
    if not seen:
        raise WarehouseError(f"{path}: no class teaches anything; nothing was landed")
    return list(seen)
