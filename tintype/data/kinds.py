"""What a file is that cannot be read as a picture, by its first bytes."""

from __future__ import annotations

import os

from tintype.files.bounded import regular_only

# (offset, bytes, what it is)
_SIGNATURES = (
    (0, b"\xff\x0a", "a JPEG XL picture, which is not read: convert it to JPEG or PNG"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture, which is not read: convert it to JPEG or PNG"),
    (
        0,
        b"\x00\x00\x00\x0cjP  ",
        "a JPEG 2000 picture, which is not read: convert it to JPEG or PNG",
    ),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture, which is not read: convert it to JPEG or PNG"),
    (0, b"%PDF", "a PDF document, not an image"),
    (0, b"%!PS", "a PostScript document, not an image"),
    (0, b"8BPS", "a Photoshop document: export it as PNG"),
    (0, b"PK\x03\x04", "a ZIP archive, not an image"),
    (0, b"\x1f\x8b", "a gzip archive, not an image"),
    (0, b"Rar!", "a RAR archive, not an image"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive, not an image"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM), not an image"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO), which is not read: convert it to PNG"),
    (0, b"\x89HDF", "an HDF5 file, not an image"),
    (0, b"\x93NUMPY", "a NumPy array: save it as PNG, or give it from Python"),
    (0, b"SIMPLE  =", "a FITS picture, which is not read: convert it to PNG or TIFF"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture, which is not read: convert it to PNG or TIFF"),
    (0, b"FUJIFILM", "a camera's raw photo, which is not read: convert it to JPEG"),
    (128, b"DICM", "a DICOM picture, which is not read: convert it to PNG"),
    (8, b"AVI ", "a video (AVI), not an image"),
    (8, b"WAVE", "a sound (WAV), not an image"),
)
_BRANDS = {  # of ISO base media files: bytes 8 to 12
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "raw",
}  # fmt: skip
_PIECE = 4096


def kind_of(source: str | os.PathLike[str] | bytes) -> str:
    """Return what a file is, with the way out, or "" where its first bytes do not say."""
    start = source[:_PIECE] if isinstance(source, bytes) else _first_bytes(source)
    if start[4:8] == b"ftyp":
        brand = _BRANDS.get(start[8:12])
        if brand in ("HEIC", "AVIF"):
            return (
                f"a {brand} photo, which is not read{_misnamed(source)}: convert it to JPEG or PNG"
            )
        return (
            "a camera's raw photo: convert it to JPEG"
            if brand
            else "a video (MP4 or MOV), not an image"
        )

    for offset, signature, what in _SIGNATURES:
        if start[offset:].startswith(signature):
            return what
    if start[:2] in (b"II", b"MM") and start[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+", b"U\0"):
        return _tiff(source)
    return _text(start)


def _first_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb", opener=regular_only) as file:
            return file.read(_PIECE)
    except OSError:
        return b""


def _misnamed(source: str | os.PathLike[str] | bytes) -> str:
    ending = "" if isinstance(source, bytes) else os.path.splitext(os.fspath(source))[1].lower()
    return f" (under the name of a {ending})" if ending in (".jpg", ".jpeg", ".png") else ""


def _text(start: bytes) -> str:
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML), perhaps an error message saved in place of a photo"
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "an SVG drawing, which is not read: export it as PNG"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the photo: type git lfs pull"
    if head and b"\0" not in start and all(byte >= 32 or byte in b"\t\r\n\f" for byte in start):
        return "a text file, not an image"
    return ""


def _tiff(source: str | os.PathLike[str] | bytes) -> str:
    """Return what a TIFF that Pillow does not know has in it."""
    import io

    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with (
            io.BytesIO(source)
            if isinstance(source, bytes)
            else open(source, "rb", opener=regular_only) as file
        ):
            directory = ImageFileDirectory_v2(file.read(8))
            file.seek(directory.next)
            directory.load(file)
            bands = int(directory.get(277, 1))
            bits = directory.get(258, (1,))
    except Exception:  # whatever a damaged file makes of it
        return ""
    depth = max(bits) if isinstance(bits, tuple) else bits
    if bands > 4 or (bands > 1 and depth > 8):
        return (
            f"a TIFF of {bands} bands of {depth} bits; "
            "expected 1, 3 or 4 bands (channels) of 8, or 1 of up to 32"
        )
    return f"a TIFF of a kind that is not read ({bands} bands of {depth} bits)"
