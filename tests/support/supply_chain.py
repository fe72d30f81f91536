"""What `make audit` does: the lock against published advisories, where they can be had.

    python -m tests.support.supply_chain PIP_AUDIT

Exit code 1 if a package of the lock has a known fault. Where the advisory data cannot
be had (a mirror of PyPI has packages and no advisories, a machine no network) it says
so, and ends with 0: a check that needs the network must not stop work without one.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[2] / "requirements.lock"

# Every index that has advisories has these: asked first, so that a mirror without any
# is asked for one package and not for all.
_ASKED_FIRST = "pip==24.0\n"


def faults(found: dict[str, Any]) -> list[str]:
    """A line for each fault that pip-audit found: what, which, and what mends it."""
    lines = []
    for package in found["dependencies"]:
        for fault in package.get("vulns", ()):
            mended = ", ".join(fault["fix_versions"]) or "no version yet"
            lines.append(
                f"{package['name']} {package['version']}: {fault['id']}; mended in "
                f"{mended}"
            )
    return lines


def unaudited(found: dict[str, Any]) -> list[str]:
    """The packages about which nothing could be had."""
    return [each["name"] for each in found["dependencies"] if "skip_reason" in each]


def ask(pip_audit: str, requirements: Path) -> dict[str, Any] | None:
    """What pip-audit says in JSON; None where the data cannot be had."""
    arguments = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner"]
    result = subprocess.run(
        [pip_audit, "--requirement", str(requirements), *arguments, "off"],
        text=True,
        capture_output=True,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        return None
    return None if len(unaudited(found)) == len(found["dependencies"]) else found


def audit(pip_audit: str, lock: Path = LOCK) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as first:
        first.write(_ASKED_FIRST)
        first.flush()
        found = ask(pip_audit, Path(first.name)) and ask(pip_audit, lock)
    if not found:
        print("audit: no advisory data can be had from here; the lock was not audited")
        return 0
    for name in unaudited(found):
        print(f"audit: {name}: nothing is known of it")
    for line in faults(found):
        print(f"error: {line}", file=sys.stderr)
    return 1 if faults(found) else 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1]))
