"""Print what a package of the fleet needs from others, itself or through other packages of the fleet, a line each.

    python third_party.py FOLDER_OF_WHEELS quantum-meta-svc

The list changes only with a pyproject.toml, so the layer that installs it survives every change of our own code.
"""

import sys
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

from pip._vendor.packaging.requirements import Requirement


def needs_of(wheel: Path) -> tuple[str, list[Requirement]]:
    """Name of a wheel's package and its requirements."""
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return metadata["Name"], [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def third_party(wanted: Requirement, ours: dict[str, list[Requirement]]) -> Iterator[str]:
    """Requirements that are not ours, with the extras that are asked for."""
    if wanted.name not in ours:
        wanted.marker = None
        yield str(wanted)
        return
    for need in ours[wanted.name]:
        if any(need.marker is None or need.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            yield from third_party(need, ours)


if __name__ == "__main__":
    wheels = dict(needs_of(wheel) for wheel in Path(sys.argv[1]).glob("*.whl"))
    print("\n".join(sorted(set(third_party(Requirement(sys.argv[2]), wheels)))))
