"""Parquet shards as Hugging Face writes them: a column of images {bytes, path}, and labels.

Images of a Parquet file are packed in groups, so that none can be read alone. Their bytes are laid
one after the other into a file of the cache, and read there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tintype.data.layout import listed
from tintype.data.shards.members import Member, as_cells
from tintype.errors import UserError
from tintype.files.bounded import parse_json

ROWS = 64  # at once in memory
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png")


def list_members(path: Path, name: str) -> list[Member]:
    """Return the images of a Parquet file in their order, with the texts of their rows.

    Their places are those in the file that `unpack` writes.

    Raises:
        UserError: it is no Parquet file, or has no column of images; pyarrow is missing.
    """
    members = []
    offset = 0
    seen: set[str] = set()
    for row, (content, file, cells) in enumerate(_rows(path, name)):
        called = file if file and file not in seen else f"{row:08d}"
        seen.add(called)
        members.append(Member(called, offset, len(content), cells))
        offset += len(content)
    return members


def unpack(path: Path, name: str, target: IO[bytes]) -> None:
    """Write the bytes of all images of a Parquet file, one after the other."""
    for content, _, _ in _rows(path, name):
        target.write(content)


def _rows(path: Path, name: str) -> Iterator[tuple[bytes, str, dict[str, str]]]:
    """Yield the bytes of each image, its file name, and the other columns as texts."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"reading {name} needs pyarrow: pip install 'tintype[shards]'") from None

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            column = _image_column(schema, name)
            names = _class_names(schema.metadata)
            for batch in file.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    image = row.pop(column)
                    content = image.get("bytes") if isinstance(image, dict) else image
                    called = image.get("path") if isinstance(image, dict) else None
                    yield content or b"", called or "", as_cells(_named(row, names))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:150].rstrip(".")
        raise UserError(
            f"{name} cannot be read: it is no Parquet file, or damaged ({reason})."
        ) from None


def _image_column(schema: Any, name: str) -> str:
    """Return the column that holds images: {bytes, path}, or bytes under a usual name."""
    import pyarrow as pa

    fields = list(schema)
    of_bytes = [
        field.name
        for field in fields
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    plain = [
        field.name
        for field in fields
        if (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))
        and field.name.lower() in IMAGE_COLUMNS
    ]
    if not of_bytes and not plain:
        raise UserError(
            f"{name} has no column of images (it has {listed(f.name for f in fields)}). "
            "Expected a column {bytes, path}, as Hugging Face's data sets have it."
        )
    return (of_bytes or plain)[0]


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of classes that Hugging Face keeps beside the numbers, by column."""
    try:
        about = parse_json((metadata or {})[b"huggingface"].decode("utf-8"))
        features = about["info"]["features"]
        return {
            column: [str(each) for each in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _named(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """Return a row with classes by name in place of their numbers; -1 stands for none."""

    def name_of(column: str, value: Any) -> Any:
        known = names.get(column)
        if known is None or not isinstance(value, int):
            return value
        return known[value] if 0 <= value < len(known) else None

    return {column: name_of(column, value) for column, value in row.items()}
