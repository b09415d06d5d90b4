"""Photos made larger by a finished run: any size, in tiles; alpha, grey, 16 bits, EXIF and colour
profile are kept.
"""

from tintype.upscaling.files import Enlarged, upscale_files
from tintype.upscaling.pictures import Picture, read_picture, write_picture
from tintype.upscaling.upscaler import Upscaler

__all__ = ["Enlarged", "Picture", "Upscaler", "read_picture", "upscale_files", "write_picture"]
