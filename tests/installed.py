"""Build the sdist and the wheel, and run the smoke tests where the repository cannot be seen: `make wheel`.

The tests come out of the sdist into an empty folder. The environment holds the wheel, what it
declares, and pytest; by default these are links to what is installed here, with --download they come
from the index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
EXTRAS = ("export", "serve")
FOR_TESTS = ("pytest", "pytest-timeout", "hypothesis")
SMOKE = ("pyproject.toml", "tests/conftest.py", "tests/test_installed.py")


def build(folder: Path) -> None:
    """Build an sdist from the tree, and the wheel from that sdist."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout)


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"{folder} holds {len(found)} files {pattern}, where one is expected")
    return found[0]


def in_wheel(wheel: Path) -> set[str]:
    """Return the files of the package in a wheel."""
    with zipfile.ZipFile(wheel) as packed:
        return {name for name in packed.namelist() if ".dist-info/" not in name}


def in_sdist(sdist: Path) -> set[str]:
    """Return the files in an sdist, without what the build added."""
    with tarfile.open(sdist) as packed:
        files = [member.name for member in packed.getmembers() if member.isfile()]
    names = {name.partition("/")[2] for name in files}
    added = {"PKG-INFO", "setup.cfg"}
    return {name for name in names - added if not name.startswith("tintype.egg-info/")}


def tracked() -> set[str]:
    """Return the files that belong to the repository and are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def compare(what: str, found: set[str], expected: set[str]) -> None:
    """End with the names where two lists of files differ."""
    lacking, more = sorted(expected - found), sorted(found - expected)
    if lacking or more:
        sys.exit(f"{what}: lacks {lacking}, and holds {more} besides")
    print(f"{what}: {len(found)} files, as in the repository")


def applying(requirements: list[str], extras: Collection[str]) -> list[Requirement]:
    """Return the requirements that hold on this system with these extras, without their markers."""
    chosen = []
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            requirement.marker = None
            chosen.append(requirement)
    return chosen


def needed(requirements: list[Requirement]) -> set[str]:
    """Return the names of distributions that requirements bring with them, as installed here.

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    found: set[str] = set()
    asked: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        if str(requirement) not in asked:
            asked.add(str(requirement))
            found.add(requirement.name)
            inner = metadata.requires(requirement.name) or []
            waiting += applying(inner, requirement.extras)
    return found


def link(names: set[str], site: Path) -> None:
    """Link the files of distributions that are installed here into another site-packages."""
    for name in sorted(names):
        distribution = metadata.distribution(name)
        home = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(home / top)


def environment(folder: Path, wheel: Path, *, download: bool) -> Path:
    """Make a virtual environment with the wheel; return its Python."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    pip.append("--disable-pip-version-check")
    if download:
        subprocess.run([*pip, f"{wheel}[{','.join(EXTRAS)}]", *FOR_TESTS], check=True)
        return python

    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    [tintype] = metadata.distributions(name="tintype", path=[str(site)])
    declared = applying(tintype.requires or [], EXTRAS)
    link(needed([*declared, *map(Requirement, FOR_TESTS)]), site)
    return python


def unpack_smoke(sdist: Path, folder: Path) -> None:
    """Write the smoke tests of an sdist into an empty folder."""
    with tarfile.open(sdist) as packed:
        for member in packed.getmembers():
            name = member.name.partition("/")[2]
            file = packed.extractfile(member) if name in SMOKE else None
            if file:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(file.read())


def smoke(python: Path, folder: Path) -> int:
    """Run the smoke tests of `folder` with `python`; return pytest's exit code."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    where = subprocess.run(
        [str(python), "-c", "import tintype; print(tintype.__file__)"],
        cwd=folder, env=bare, capture_output=True, encoding="utf-8", check=True,
    ).stdout.strip()  # fmt: skip
    if python.parent.parent.resolve() not in Path(where).resolve().parents:
        sys.exit(f"tintype comes from {where}, which is not the wheel")
    print(f"tintype comes from {where}", flush=True)
    command = [str(python), "-m", "pytest", "-m", "smoke", "-p", "no:cacheprovider", "tests"]
    return subprocess.run([*command, "--show-capture=no"], cwd=folder, env=bare).returncode


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--download", action="store_true", help="install what the wheel declares")
    asked.add_argument("--dist", type=Path, help="take a built sdist and wheel from this folder")
    asked.add_argument("--lists", action="store_true", help="compare the lists of files, no more")
    options = asked.parse_args()

    with tempfile.TemporaryDirectory(prefix="tintype-wheel-") as name:
        folder = Path(name)
        dist = options.dist or folder / "dist"
        if options.dist is None:
            build(dist)
        sdist, wheel = only(dist, "*.tar.gz"), only(dist, "*.whl")
        files = tracked()
        compare("wheel", in_wheel(wheel), {name for name in files if name.startswith("tintype/")})
        compare("sdist", in_sdist(sdist), files)
        if options.lists:
            return 0

        python = environment(folder / "venv", wheel, download=options.download)
        (folder / "elsewhere").mkdir()
        unpack_smoke(sdist, folder / "elsewhere")
        code = smoke(python, folder / "elsewhere")
        if code == 0 and options.dist is None:
            shutil.copytree(dist, ROOT / "dist", dirs_exist_ok=True)
            print(f"built: dist/{sdist.name}, dist/{wheel.name}")
        return code


if __name__ == "__main__":
    sys.exit(main())
