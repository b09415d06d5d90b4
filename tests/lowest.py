"""Print the lowest versions that pyproject.toml allows, as constraints for pip: python
tests/lowest.py [EXTRA...].
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lowest(requirements: list[str]) -> list[str]:
    """Return NAME==VERSION for each requirement with a lower bound."""
    found = [
        re.match(r"([\w.-]+)(?:\[[^]]*\])?[^;]*?>=([\w.]+)", requirement)
        for requirement in requirements
    ]
    return [f"{match[1]}=={match[2]}" for match in found if match]


def main(extras: list[str]) -> None:
    project = tomllib.loads(
        (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    chosen = [
        project["dependencies"],
        *(project["optional-dependencies"][extra] for extra in extras),
    ]
    for requirements in chosen:
        print("\n".join(lowest(requirements)))


if __name__ == "__main__":
    main(sys.argv[1:])
