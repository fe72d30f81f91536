"""The picture of docs/architecture.md, drawn from the imports in the code.

`make architecture` draws it again.
"""

from graphlib import TopologicalSorter
from pathlib import Path

import grimp

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
PACKAGES = ("ingest", "serving", "orchestration")
# All may import these; their arrows would hide the others.
EVERYWHERE = ("ingest.errors", "ingest.progress", "ingest.settings")
BEGIN, END = "<!-- drawn by `make architecture` -->\n", "<!-- end of the picture -->"

Arrows = dict[str, set[str]]


def folder_of(module: str) -> str:
    """A folder, or a module beside the folders; those of `serving` are one."""
    folder = ".".join(module.split(".")[:2])
    is_folder = (PAGE.parents[1] / folder.replace(".", "/")).is_dir()
    return "serving" if module.startswith("serving.") and not is_folder else folder


def arrows() -> Arrows:
    """Which folders the modules of each import. Raises `CycleError` for a circle."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found: Arrows = {}
    for module in graph.modules:
        if "." in module and module not in EVERYWHERE:
            into = found.setdefault(folder_of(module), set())
            into.update(
                folder_of(imported)
                for imported in graph.find_modules_directly_imported_by(module)
                if imported not in EVERYWHERE
            )
    found = {folder: into - {folder} for folder, into in found.items()}
    TopologicalSorter(found).prepare()
    return found


def direct(found: Arrows) -> Arrows:
    """Without the arrows to what is reached over another folder, too."""

    def reached(folder: str) -> set[str]:
        return found[folder].union(*map(reached, found[folder]))

    return {
        folder: into - set().union(*map(reached, into))
        for folder, into in found.items()
    }


def picture() -> str:
    found = arrows()
    lines = ["```mermaid", "flowchart TD"]
    for package in reversed(PACKAGES):
        lines.append(f'    subgraph {package}_folder["{package}/"]')
        for folder in sorted(found):
            if folder.split(".")[0] == package:
                name = folder.split(".")[-1]
                lines.append(f'        {folder.replace(".", "_")}["{name}"]')
        lines.append("    end")
    for folder, into in sorted(direct(found).items()):
        for other in sorted(into):
            lines.append(f"    {folder} --> {other}".replace(".", "_"))
    return "\n".join([*lines, "```"]) + "\n"


def split(page: str) -> tuple[str, str, str]:
    """What stands before the picture, the picture, and what stands after it."""
    before, _, rest = page.partition(BEGIN)
    drawn, _, after = rest.partition(END)
    return before, drawn, after


if __name__ == "__main__":
    before, _, after = split(PAGE.read_text())
    PAGE.write_text(before + BEGIN + picture() + END + after)
