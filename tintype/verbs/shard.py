"""Write a folder or a table of photos as tar shards: `tintype shard FOLDER OUT`."""

from __future__ import annotations

from pathlib import Path

from tintype import plugins
from tintype.data import locate
from tintype.data.shards.writing import Written, write_shards
from tintype.data.targets import Classes, NoTarget, Numbers, TargetKind
from tintype.errors import UserError
from tintype.files.shard_names import names_shards
from tintype.files.whole import parse_bytes
from tintype.progress import Progress


def shard(
    data: str,
    out: Path,
    *,
    size: str = "100MB",
    columns: str | None = None,
    labels: bool = True,
    data_root: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Written:
    """Write shards of the photos of a folder or a CSV file.

    Args:
        data: the folder or the file.
        out: a new folder.
        size: of a shard, as 100MB.
        columns: columns with numbers, by commas; by default photos have classes.
        labels: whether photos have labels at all.
        data_root: where the paths of a CSV begin.
        seed: of the order in which photos lie.
        progress: called as progress(what, done, total).

    Raises:
        UserError: there is no such folder or file, `out` is taken, or a size cannot be read.
    """
    try:
        shard_bytes = parse_bytes(size)
    except ValueError as error:
        raise UserError(f"--size: {error}.") from None
    if names_shards(data):
        raise UserError(f"'{data}' is shards already. Expected a folder of photos or a .csv file.")

    target: TargetKind = Classes(single=True)
    if not labels:
        target = NoTarget()
    elif columns:
        target = Numbers(tuple(name.strip() for name in columns.split(",")))
    module, _ = locate(data, target)
    path = Path(data).expanduser()
    if module is plugins.find("data", "folder"):
        found = module.find_photos(path, target)
    elif module is plugins.find("data", "csv-file"):
        found = module.find_rows(path, Path(data_root).expanduser() if data_root else None, target)
    else:
        raise UserError(f"'{data}' is no folder of photos. Expected one, or a .csv file.")
    headings = [usual for usual, *_ in target.columns]
    return write_shards(
        found.photos, headings, out, shard_bytes=shard_bytes, seed=seed, progress=progress
    )
