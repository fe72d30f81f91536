"""What the dbt project has: its files, its layers, and the relations that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingest.settings import Settings, project_folder

# Of the checkout that one stands in, whose models one may have edited, or else the one
# that was installed with this package.
DBT_PROJECT = (project_folder() or Path(__file__).parents[2]) / "dbt_project"

# The generic tests that say by which columns a row is known.
_KEY_TESTS = ("unique_combination", "key_and_conditions")


def files() -> list[Path]:
    """Whatever an edit of the project can change."""
    return [
        file
        for file in DBT_PROJECT.rglob("*")
        if file.suffix in (".sql", ".yml", ".csv", ".md") and "target" not in file.parts
    ]


def layers() -> list[str]:
    """The folders of models and seeds: each is a schema of its name."""
    return sorted(
        {
            folder.name
            for kind in ("models", "seeds")
            for folder in (DBT_PROJECT / kind).iterdir()
            if folder.is_dir()
        }
    )


def seeds() -> list[str]:
    """Every seed, as the table `schema.name` that it makes."""
    folder = DBT_PROJECT / "seeds"
    return sorted(
        f"{file.relative_to(folder).parts[0]}.{file.stem}"
        for file in folder.glob("*/**/*.csv")
    )


def target_folder() -> Path:
    """Where dbt keeps its manifest between runs: `DBT_TARGET_PATH`, or else target/."""
    return Settings.from_environment().dbt_target or DBT_PROJECT / "target"


@dataclass(frozen=True)
class Relation:
    """A table or view that dbt makes, and by which columns its rows are known.

    `kind` is `incremental`, `view`, `seed` or `table`; `key` are the columns of its
    test `unique_combination` or `key_and_conditions`, or else its `meta: key`. What
    `is_public` has readers who rely on its columns.
    """

    unique_id: str
    schema: str
    name: str
    kind: str
    key: tuple[str, ...]
    is_public: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


def relations(manifest: Any) -> dict[str, Relation]:
    """The models and seeds of a parsed manifest, by unique id."""
    keys = {
        node.attached_node: tuple(node.test_metadata.kwargs["columns"])
        for node in manifest.nodes.values()
        if getattr(node, "test_metadata", None) is not None
        and node.test_metadata.name in _KEY_TESTS
    }
    return {
        unique_id: Relation(
            unique_id=unique_id,
            schema=node.schema,
            name=node.alias,
            kind=str(node.config.materialized),
            key=keys.get(unique_id) or tuple(node.config.meta.get("key", ())),
            is_public=getattr(node, "access", None) == "public",
        )
        for unique_id, node in manifest.nodes.items()
        if node.resource_type in ("model", "seed")
    }


@dataclass(frozen=True)
class Project:
    """What the dbt project has: relations by unique id, and what reads what."""

    relations: dict[str, Relation]
    children: dict[str, tuple[str, ...]]

    @staticmethod
    def of(manifest: Any) -> "Project":
        """Reads a parsed manifest."""
        return Project(
            relations(manifest),
            {parent: tuple(found) for parent, found in manifest.child_map.items()},
        )

    def downstream_of(self, unique_ids: Sequence[str]) -> list[str]:
        """Names of the models and exposures made from these, in the order found."""
        return [
            self.relations[each].full_name
            if each in self.relations
            else f"exposure {each.split('.')[2]}"
            for each in self._below(unique_ids)
            if each in self.relations or each.startswith("exposure.")
        ]

    def first_of(self, unique_ids: Sequence[str]) -> list[str]:
        """Those that are not made from others of them."""
        return [
            each
            for each in unique_ids
            if not any(
                each in self._below([other]) for other in unique_ids if other != each
            )
        ]

    def _below(self, unique_ids: Sequence[str]) -> list[str]:
        found: dict[str, None] = {}
        to_visit = list(unique_ids)
        while to_visit:
            for child in self.children.get(to_visit.pop(0), ()):
                if child not in found and child not in unique_ids:
                    found[child] = None
                    to_visit.append(child)
        return list(found)
