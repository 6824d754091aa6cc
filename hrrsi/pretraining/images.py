"""Images: whole or corrupt files in memory, and folders of them, one a class, as ImageNet is."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrrsi.errors import InputError
from hrrsi.progress import progress
from hrrsi.tiling.dataset import DESCRIPTION

SPLITS = ("train", "val")

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
# Frame markers of baseline, extended and progressive JPEG, which every decoder reads
_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_BITS, _GREY_OR_COLOUR = 8, (1, 3)
# What an image may be, whatever its name says: ImageNet has a PNG among its .JPEG files.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
_SUFFIXES = (".jpg", ".jpeg", ".png")
_LISTED = 3
_SCENES_AND_LABELS = {"image", "images", "label", "labels", "mask", "masks"}


@dataclass(frozen=True)
class ImageFolders:
    """A dataset for classification.

    Attributes:
        folder: Its folder.
        classes: Names of the classes: the folders of ``train``, sorted.
        splits: ``train`` and ``val``.
    """

    folder: Path
    classes: list[str]
    splits: dict[str, ImageSplit]


@dataclass(frozen=True)
class ImageSplit:
    """The images of a split.

    Attributes:
        folder: Folder of the split.
        names: (images,) paths within it, as bytes: a million of them fit into little memory, and
            processes share it.
        labels: (images,) int64, indices of classes.
    """

    folder: Path
    names: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.folder / os.fsdecode(bytes(self.names[index]))


def image_folders(folder: Path, *, quiet: bool = True) -> ImageFolders:
    """Return the images of a folder that holds ``train`` and ``val``, each with a folder a class.

    Images are the files named ``.jpg``, ``.jpeg`` or ``.png`` in any case, at any depth; other
    files and hidden ones are passed over. No image is opened.

    Args:
        folder: The folder.
        quiet: No progress bar; a million files can take a minute to list.

    Raises:
        HrrsiError: It is a tiled dataset or holds raw scenes, it lacks a split, classes or images,
            or ``train`` and ``val`` do not have the same classes.
    """
    if (folder / DESCRIPTION).is_file():
        raise InputError(
            f"is a tiled dataset (it holds {DESCRIPTION}), not images sorted into classes",
            where=folder,
            fix="train on it with `hrrsi train`",
        )
    classes = {split: _class_names(folder, split) for split in SPLITS}
    names = classes["train"]
    if len(names) == 1:
        raise InputError(
            f"holds one class only ({names[0]})",
            where=folder / "train",
            fix="give images of two classes or more, each in a folder of its own",
        )
    for split, other in (("val", "train"), ("train", "val")):
        surplus = [name for name in classes[split] if name not in classes[other]]
        if surplus:
            raise InputError(
                f"holds {_listed(surplus)}, which {other} lacks",
                where=folder / split,
                fix="give train and val folders of the same names",
            )
    labels = {name: label for label, name in enumerate(names)}
    total = sum(map(len, classes.values()))
    with progress("listing images", total, " folders", enabled=not quiet) as bar:
        files: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
        for split in SPLITS:
            for name in classes[split]:
                files[split][name] = _image_names(folder / split, name)
                bar.update()
    splits = {split: _split(folder / split, files[split], labels) for split in SPLITS}
    return ImageFolders(folder, names, splits)


def image_digest(folders: ImageFolders, *, quiet: bool = True) -> str:
    """Return the SHA-256 of the images' names and sizes, in hexadecimal digits.

    The names begin with the split and the class, so it also tells the classes. No image is
    opened: to read a whole ImageNet takes long.

    Args:
        folders: The images.
        quiet: No progress bar.

    Raises:
        HrrsiError: An image is gone.
    """
    whole = hashlib.sha256()
    images = sum(map(len, folders.splits.values()))
    with progress("looking at the images", images, " files", enabled=not quiet) as bar:
        for name, split in folders.splits.items():
            for index, file in enumerate(split.names):
                try:
                    size = split.path(index).stat().st_size
                except OSError as error:
                    raise InputError(
                        f"cannot be read ({error.strerror})", where=split.path(index)
                    ) from error
                whole.update(b"%s/%s\0%d\n" % (name.encode(), bytes(file), size))
                bar.update()
    return whole.hexdigest()


def image_states(folders: ImageFolders) -> npt.NDArray[np.int64]:
    """Return size and time of change, in ns, of each image: (images, 2), -1 where it is gone.

    Those of ``train`` come first, then those of ``val``, as `changed_images` takes them.
    """
    rows = []
    for split in folders.splits.values():
        for index in range(len(split)):
            try:
                status = os.stat(split.path(index))
                rows.append((status.st_size, status.st_mtime_ns))
            except OSError:
                rows.append((-1, -1))
    return np.array(rows, dtype=np.int64)


def changed_images(folders: ImageFolders, before: npt.NDArray[np.int64]) -> list[Path]:
    """Return the images that are not as `image_states` found them, or gone."""
    changed = np.flatnonzero((image_states(folders) != before).any(axis=1))
    train, val = (folders.splits[name] for name in SPLITS)
    return [
        train.path(index) if index < len(train) else val.path(index - len(train))
        for index in map(int, changed)
    ]


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
        CorruptImage: It can't be decoded to its end, or holds floating-point values.
    """
    image = _opened(content)
    if image.mode == "F":
        raise CorruptImage("holds floating-point values")
    try:
        if image.mode.startswith("I"):  # 16 bits, whose conversion cuts off all beyond 255
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        return image.convert("RGB")
    except Exception as error:  # each format has its own, from struct's to zlib's
        raise CorruptImage(f"can't be decoded ({error})") from error


def _class_names(folder: Path, split: str) -> list[str]:
    if not (folder / split).is_dir():
        reason = "is a file, not a folder" if folder.exists() else "no such folder"
        if folder.is_dir():
            reason = f"holds no folder {split}"
        raise InputError(
            reason,
            where=folder,
            fix="name a folder of train/CLASS/NAME.jpg and val/CLASS/NAME.jpg; scenes and their "
            "labels are for `hrrsi tile`",
        )
    with os.scandir(folder / split) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise InputError(
            "holds no class", where=folder / split, fix="put the images into a folder a class"
        )
    if _SCENES_AND_LABELS.issuperset(map(str.lower, names)):
        raise InputError(
            f"holds the folders {' and '.join(names)}, which look like no classes",
            where=folder / split,
            fix="tile scenes and their labels with `hrrsi tile`, then train with `hrrsi train`",
        )
    return names


def _split(folder: Path, files: dict[str, list[str]], labels: dict[str, int]) -> ImageSplit:
    empty = [name for name, images in files.items() if not images]
    if empty:
        raise InputError(
            f"holds no image in {_listed(empty)}",
            where=folder,
            fix=f"put images ({', '.join(_SUFFIXES)}) there, or remove it from train and val",
        )
    names = [os.fsencode(file) for images in files.values() for file in images]
    counts = [len(images) for images in files.values()]
    indices = np.array([labels[name] for name in files], dtype=np.int64)
    return ImageSplit(folder, np.array(names), np.repeat(indices, counts))


def _image_names(folder: Path, name: str) -> list[str]:
    names = []
    for place, folders, files in os.walk(folder / name, followlinks=True):
        folders[:] = [subfolder for subfolder in folders if not subfolder.startswith(".")]
        within = os.path.relpath(place, folder)
        names += [
            os.path.join(within, file)
            for file in files
            if file.lower().endswith(_SUFFIXES) and not file.startswith(".")
        ]
    return sorted(names)


def _listed(names: list[str]) -> str:
    noun = "class" if len(names) == 1 else "classes"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{noun} {', '.join(names[:_LISTED])}{more}"


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
    header = None
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
            return header
        (length,) = struct.unpack_from(">H", content, position + 2)
        if marker in _FRAMES and position + 10 <= len(content):
            bits, height, width, components = struct.unpack_from(">BHHB", content, position + 4)
            if bits == _BITS and components in _GREY_OR_COLOUR and height and width:
                header = ImageHeader(width, height, plain=True)
        position += 2 + length
    if position + 4 > len(content):
        raise CorruptImage("is truncated")
    return None
