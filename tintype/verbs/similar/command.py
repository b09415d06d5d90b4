"""What `tintype similar` does: find, write what was asked for, and print the table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tintype.errors import UserError
from tintype.progress import make_watcher
from tintype.runs.packed import is_packed
from tintype.tasks.contract.exported import is_exported
from tintype.verbs.similar import find, output
from tintype.verbs.similar.looking import predictor_of

EXPECTED = "Expected tintype similar [RUN] PHOTO FOLDER."
MOST_NAMED = 20  # files that are passed over and named on standard error


def similar_command(
    paths: Sequence[Path], *, top: int, out: Sequence[Path], device: str, as_json: bool
) -> None:
    """Print the photos that are found, or one JSON object, and write the files of `out`.

    Raises:
        UserError: a mistake that can be mended.
    """
    run, photo, folders = _meant(paths)
    for path in out:
        output.check(path)

    watcher = make_watcher(to_stderr=True)
    try:
        predictor, name = predictor_of(run, device)
        found = find(predictor, name, photo, folders, top=top, progress=watcher.on_work)
    finally:
        watcher.close()

    for file, reason in found.skipped[:MOST_NAMED]:
        print(f"passed over {file}: {reason}", file=sys.stderr)
    written = [output.write(path, found) for path in out]
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        for row in found.found:
            same = "  (same pixels)" if row["same_pixels"] else ""
            print(f"{row['similarity']:.3f}  {row['file']}{same}")
        for path in written:
            print(f"written: {path}")

    said = f"{len(found):,} of {found.num_photos:,} photos, by the features of {found.network}"
    passed = f"; {len(found.skipped):,} could not be read" if found.skipped else ""
    print(said + passed, file=sys.stderr)


def _meant(paths: Sequence[Path]) -> tuple[Path | None, Path, Sequence[Path]]:
    """Return run, photo and folders of what was typed; the first is a run if it is no photo.

    Raises:
        UserError: one is missing, or the photo is none.
    """
    first = paths[0]
    if is_exported(first):
        raise UserError(f"{first} is an exported model, which shows no features. Give its run.")
    has_run = first.is_dir() or is_packed(first)
    run = first if has_run else None
    rest = paths[1:] if has_run else paths

    if len(rest) < 2:
        missing = "photo and a folder" if not rest else "folder to look in"
        raise UserError(f"there is no {missing}. {EXPECTED}")
    photo, *folders = rest
    if photo.is_dir():
        raise UserError(f"{photo} is a folder, and one photo is looked for. {EXPECTED}")
    return run, photo, folders
