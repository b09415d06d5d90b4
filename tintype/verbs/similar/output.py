"""Similar photos to be looked at and read: a page, a contact sheet, a table in a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from tintype.data.decode import Unreadable, decode, read_header
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.pages.pages import check_replaceable, templates
from tintype.pages.pictures import data_uri

if TYPE_CHECKING:
    from tintype.verbs.similar.result import Similar

MADE_BY = "tintype similar"
SIDE = 320  # pixels of a picture on the page, which shows it at half of that or less
SHEET_SIDE = 192
CAPTION = 36  # pixels below a picture of the sheet
GAP = 12
PAPER, INK, FRAME = (255, 255, 255), (40, 40, 40), (199, 107, 44)
MOST_ON_PAGE = 500  # pictures; the table has all


class Shown(NamedTuple):
    """A photo as it is shown: where it stands in the order, and how alike it is."""

    file: str
    similarity: float | None
    same: bool
    image: Image.Image | None

    @property
    def uri(self) -> str:
        assert self.image is not None
        buffer = io.BytesIO()
        self.image.save(buffer, format="JPEG", quality=85)
        return data_uri(buffer.getvalue(), "image/jpeg")

    @property
    def short(self) -> str:
        """The last two parts of the name, which tell photos of one folder apart."""
        return "/".join(Path(self.file).parts[-2:])


def check(path: Path) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Raises:
        UserError: another kind of file, or one that is there already.
    """
    if path.suffix.lower() not in WRITERS:
        *first, last = WRITERS
        raise UserError(f"{path} is of an unknown kind. Expected {', '.join(first)} or {last}.")
    if path.suffix.lower() == ".html":
        check_replaceable(path, MADE_BY)
        return
    if path.exists():
        raise UserError(f"{path} is there already, and nothing is overwritten. Choose another.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}. Make it first.")


def write(path: Path, similar: Similar) -> Path:
    """Write what was found, in the form that the ending of the name says."""
    content = WRITERS[path.suffix.lower()](similar)
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return path


def grid(similar: Similar) -> str:
    """Return the pictures as HTML that needs no style sheet, for notebooks."""
    shown = [_query(similar, side=160), *_found(similar, side=160)]
    return templates().get_template("similar_grid.html").render(similar=similar, shown=shown)


def _page(similar: Similar) -> bytes:
    found = list(_found(similar, side=SIDE, most=MOST_ON_PAGE))
    page = templates().get_template("similar.html")
    text = page.render(
        similar=similar,
        made_by=MADE_BY,
        query=_query(similar, side=SIDE),
        found=found,
        left_out=len(similar.found) - len(found),
        name=Path(similar.photo).name,
        word_break=_breakable,
    )
    return text.encode("utf-8", "backslashreplace")


def _sheet(similar: Similar) -> bytes:
    """Return a PNG: the photo itself in a frame, then the others in rows."""
    shown = [_query(similar, side=SHEET_SIDE), *_found(similar, side=SHEET_SIDE)]
    columns = min(len(shown), max(4, round(len(shown) ** 0.5)))
    rows = -(-len(shown) // columns)
    width, height = SHEET_SIDE + GAP, SHEET_SIDE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)

    for number, each in enumerate(shown):
        left = GAP + number % columns * width
        top = GAP + number // columns * height
        if each.image is not None:
            inside = ((SHEET_SIDE - side) // 2 for side in each.image.size)
            across, down = inside
            sheet.paste(each.image, (left + across, top + down))
        if each.similarity is None:
            edge = (left - 4, top - 4, left + SHEET_SIDE + 3, top + SHEET_SIDE + 3)
            draw.rectangle(edge, outline=FRAME, width=3)
        for line, text in enumerate((_caption(each), each.short)):
            fitting = _fitting(text, font, SHEET_SIDE)
            draw.text((left, top + SHEET_SIDE + 3 + 16 * line), fitting, fill=INK, font=font)

    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _csv(similar: Similar) -> bytes:
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["rank", "file", "similarity", "same_pixels"])
    for rank, row in enumerate(similar.found, start=1):
        same = "true" if row["same_pixels"] else "false"
        lines.writerow([rank, row["file"], f"{row['similarity']:.6f}", same])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _json(similar: Similar) -> bytes:
    return (json.dumps(similar.to_dict(), indent=1) + "\n").encode()


WRITERS: dict[str, Callable[[Similar], bytes]] = {
    ".html": _page,
    ".png": _sheet,
    ".csv": _csv,
    ".json": _json,
}


def _query(similar: Similar, *, side: int) -> Shown:
    """Return the photo itself; one that is no file is shown as the network saw it."""
    image = _picture(similar.photo, side) if Path(similar.photo).is_file() else None
    if image is None:
        pixels = np.asarray(similar.picture)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        image.thumbnail((side, side))
    return Shown(similar.photo, None, False, image)


def _found(similar: Similar, *, side: int, most: int | None = None) -> Iterator[Shown]:
    for row in similar.found[:most]:
        picture = _picture(row["file"], side)
        yield Shown(row["file"], row["similarity"], row["same_pixels"], picture)


def _picture(file: str, side: int) -> Image.Image | None:
    """Return a photo at most `side` pixels long, upright; None where it is gone meanwhile."""
    try:
        header = read_header(file)
        scale = min(1.0, side / max(header.width, header.height))
        height, width = max(1, round(header.height * scale)), max(1, round(header.width * scale))
        return Image.fromarray(
            decode(file, height=height, width=width, channels=3, resize="squash")
        )
    except (Unreadable, OSError, ValueError):
        return None


def _caption(shown: Shown) -> str:
    if shown.similarity is None:
        return "like this photo"
    return f"{shown.similarity:.3f}{', same pixels' if shown.same else ''}"


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return a text whose beginning is cut until it is at most `width` pixels wide."""
    text = text.encode("latin-1", "replace").decode("latin-1")  # what Pillow's own font has
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


def _breakable(name: str) -> Markup:
    """Return a path that may be broken behind each slash."""
    return Markup("/<wbr>").join(Markup.escape(part) for part in name.split("/"))
