"""A column of state or of a seed comes and goes with a refresh, as a rule does."""

from pathlib import Path

import pytest

from tests.support.builders import Warehouse, ping
from tests.support.edits import edit

pytestmark = pytest.mark.long


def test_a_column_that_comes_or_goes_is_made_by_a_refresh(
    warehouse: Warehouse, project: Path
) -> None:
    warehouse.land([ping("e1"), ping("e2", user="u2")])
    warehouse.refresh()
    model = project / "models/projections/prj_active_day.sql"
    edit(
        model,
        "        load_id\n    from folded",
        "        1 as n, load_id\n    from folded",
    )
    seed = project / "seeds/analytics/learner_level.csv"
    edit(seed, "level,min_points\n1,0\n", "level,min_points,title\n1,0,new\n")
    _pad(seed)
    warehouse.land([ping("e3", user="u3")])
    warehouse.refresh()
    of_state = "select user_id, n from projections.prj_active_day order by all"
    assert warehouse.rows(of_state) == [("u1", 1), ("u2", 1), ("u3", 1)]
    of_seed = "select title from analytics.learner_level where level = 1"
    assert warehouse.rows(of_seed) == [("new",)]

    edit(model, "1 as n, load_id", "load_id")
    warehouse.refresh()
    columns = warehouse.rows(
        "select column_name from (describe projections.prj_active_day)"
    )
    assert ("n",) not in columns


def _pad(seed: Path) -> None:
    """The same number of fields in each line."""
    head, *lines = seed.read_text().splitlines()
    fields = head.count(",")
    padded = [line + "," * (fields - line.count(",")) for line in lines]
    seed.write_text("\n".join([head, *padded]) + "\n")
