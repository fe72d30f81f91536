"""Skill files: the newest holds, whole or not at all."""

from pathlib import Path

import pytest

from ingest.errors import WarehouseError
from ingest.landing.skills import land_skills
from tests.support.builders import Warehouse

HELD = "select class_id, skill_id from raw.class_skill where load_id = {} order by all"


def test_a_skill_file_is_one_load_with_its_pairs(warehouse: Warehouse) -> None:
    load = warehouse.land_skills(("c1", "s1"), ("c2", "s1"), ("c1", "s2"))

    assert (load.known, load.classes, load.skills) == (False, 2, 2)
    assert warehouse.rows(HELD.format(load.load_id)) == [
        *(("c1", "s1"), ("c1", "s2"), ("c2", "s1")),
    ]
    assert warehouse.rows("select kind, lines_read from raw.load") == [("skills", 0)]


def test_the_newest_file_is_known_and_an_earlier_one_holds_again(
    warehouse: Warehouse,
) -> None:
    first = warehouse.land_skills(("c1", "s1"))
    again = warehouse.land_skills(("c1", "s1"))
    warehouse.land_skills(("c1", "s2"))
    back = warehouse.land_skills(("c1", "s1"))

    assert (again.known, again.load_id) == (True, first.load_id)
    assert (back.known, back.load_id) == (False, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_id\nc1\n", "line 1: no column skill_id; expected the header class_id"),
        ("class_id,skill_id\nc1,s1\nc1\n", "line 3: skill_id: no value; the line is"),
        ("class_id,skill_id\nc1, \n", "line 2: skill_id: expected 1 to 256 characters"),
        ("class_id,skill_id\nc1,s1\nc1,s1\n", "line 3: the same class and skill stand"),
        ("class_id,skill_id\n", "no class teaches anything; nothing was landed"),
    ],
)
def test_a_wrong_file_is_named_with_its_line_and_nothing_is_landed(
    warehouse: Warehouse, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "skills.csv"
    file.write_text(text)

    with pytest.raises(WarehouseError) as error:
        land_skills(file, warehouse.path)

    assert message in str(error.value)
    assert not warehouse.path.exists() or warehouse.rows("from raw.load") == []
