"""Image files in memory: what is corrupt, how large they are, and their pixels."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import NamedTuple

from PIL import Image

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
# Frame markers of baseline, extended and progressive JPEG, which every decoder reads
_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_BITS, _GREY_OR_COLOUR = 8, (1, 3)
# What an image may be, whatever its name says: ImageNet has a PNG among its .JPEG files.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)


class CorruptImage(Exception):  # noqa: N818 (a finding about a file, which is no error of the run)
    """An image that no pixels can be had from; says why."""


class ImageHeader(NamedTuple):
    """What the start of an image file says.

    Attributes:
        width: Columns.
        height: Rows.
        plain: Whether it is a grey or colour JPEG of the kinds that all decoders read alike.
    """

    width: int
    height: int
    plain: bool


def image_header(content: bytes) -> ImageHeader:
    """Return the size of an image, without decoding it.

    This is the half of what counts as corrupt that costs nothing: an empty file, one that is no
    image, a JPEG without its end. The other half is what `decoded_image` refuses.

    Args:
        content: The file.

    Raises:
        CorruptImage: It is one of those, or too large to be decoded safely.
    """
    if not content:
        raise CorruptImage("is empty (0 bytes)")
    header = _plain_jpeg_header(content)
    if header is None:
        width, height = _opened(content).size
        header = ImageHeader(width, height, plain=False)
    if header.width * header.height > _MOST_PIXELS:
        raise CorruptImage(f"says it has {header.width}x{header.height} pixels")
    return header


def decoded_image(content: bytes) -> Image.Image:
    """Return an image in red, green and blue.

    Args:
        content: The file.

    Raises:
        CorruptImage: It can't be decoded to its end.
    """
    image = _opened(content)
    try:
        return image.convert("RGB")
    except Exception as error:  # each format has its own, from struct's to zlib's
        raise CorruptImage(f"can't be decoded ({error})") from error


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise CorruptImage(str(error)) from error
    except Exception as error:
        raise CorruptImage("is not an image") from error


def _plain_jpeg_header(content: bytes) -> ImageHeader | None:
    """Return the header of a plain JPEG, or None where the file is something else.

    Raises:
        CorruptImage: The file is a JPEG that ends before its image does.
    """
    if not content.startswith(_JPEG_START):
        return None
    found = None
    position = len(_JPEG_START)
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if marker in _OTHER_FRAMES or 0xD0 <= marker <= 0xD9 or marker <= 1:
            return None
        if marker == _SCAN:
            # coded pixels never hold the marker of the end; a thumbnail before them may
            if content.rfind(_JPEG_END, position) < 0:
                raise CorruptImage("is truncated")
            return found
        (length,) = struct.unpack_from(">H", content, position + 2)
        if marker in _FRAMES and position + 10 <= len(content):
            bits, height, width, components = struct.unpack_from(">BHHB", content, position + 4)
            if bits == _BITS and components in _GREY_OR_COLOUR and height and width:
                found = ImageHeader(width, height, plain=True)
        position += 2 + length
    if position + 4 > len(content):
        raise CorruptImage("is truncated")
    return None
