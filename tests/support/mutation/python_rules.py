"""Mutants of Python code, by Cosmic Ray; its environment runs this file by itself.

    .venv-mutation/bin/python python_rules.py SEED COUNT FILE ...

Prints `COUNT` of all mutants of the files (all of them if 0) as JSON: the file, the
name of the rule, and the text that stands from `start` to `end` now.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

# One for each thing that can be wrong. Cosmic Ray's other replacements of one operator
# (`+` by `>>`) fail at once, and would only make the share of killed ones larger; a
# decorator is a cache or a dataclass here.
_NEXT = {"Lt": "LtE", "LtE": "Lt", "Gt": "GtE", "GtE": "Gt", "Eq": "NotEq"}
_OPPOSITE = {"Lt": "GtE", "LtE": "Gt", "Gt": "LtE", "GtE": "Lt", "NotEq": "Eq"}
_IDENTITY = {"Is": "IsNot", "IsNot": "Is"}
_ARITHMETIC = {"Add": "Sub", "Sub": "Add", "Mul": "FloorDiv", "FloorDiv": "Mul"}
RULES = [
    *(
        f"ReplaceComparisonOperator_{old}_{new}"
        for each in (_NEXT, _OPPOSITE, _IDENTITY)
        for old, new in each.items()
    ),
    *(f"ReplaceBinaryOperator_{old}_{new}" for old, new in _ARITHMETIC.items()),
    *("AddNot", "ReplaceUnaryOperator_Delete_Not", "ReplaceAndWithOr"),
    *("ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("NumberReplacer", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("ExceptionReplacer", "ZeroIterationForLoop"),
]


def difference(before: str, after: str) -> tuple[int, int, str]:
    """From where to where the text is another, and what it is now."""
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return start, len(before) - end, after[start : len(after) - end]


def mutants(files: list[str], seed: int, count: int) -> list[dict[str, Any]]:
    places = []
    for file in files:
        nodes = list(ast_nodes(get_ast(Path(file).read_text())))
        for rule in RULES:
            operator = get_operator(f"core/{rule}")()
            positions = sum(len(list(operator.mutation_positions(n))) for n in nodes)
            places += [(file, rule, number) for number in range(positions)]
    random.Random(seed).shuffle(places)
    found = []
    for file, rule, number in places[: count or None]:
        before = Path(file).read_text()
        after = mutate_code(before, get_operator(f"core/{rule}")(), number)
        place = dict(
            zip(("start", "end", "new"), difference(before, after), strict=True)
        )
        found.append({"file": file, "rule": rule, **place})
    return found


if __name__ == "__main__":
    seed, count, *files = sys.argv[1:]
    json.dump(mutants(files, int(seed), int(count)), sys.stdout)
