"""Pictures of patches: panels in a grid, classes in their colours, a run's first batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from hrrsi.classes import IGNORE_INDEX, Colour, class_palette
from hrrsi.errors import OutputError, OutputExistsError
from hrrsi.files import prepare_folder, replacing
from hrrsi.scenes.pixel_reader import text_font
from hrrsi.tiling.dataset import DatasetDescription, TiledDataset
from hrrsi.training.losses import candidate_table, edge_target
from hrrsi.training.network_input import input_resolutions
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import Draw, TrainingPatches, training_batches
from hrrsi.training.run_data import RunData, as_run_data, run_data

RGB = npt.NDArray[np.uint8]
PAPER: Colour = (255, 255, 255)
INK: Colour = (30, 30, 30)

_PERCENTILES = (2, 98)
_PANEL = 216  # pixels across: eight panels beside each other fit a screen
_GAP = 4
_TEXT = 13
_LINE = 18
# No scheme's class is striped, whatever its colour.
_STRIPES: tuple[Colour, Colour] = ((105, 105, 105), (175, 175, 175))
_STRIPE_WIDTH = 4
_PATCHES = 8
_COLUMNS = ("image", "label", "edge target", "what counts")
_DETAILS = ("detail", "camera unchanged")  # a change of camera is often as fine as a pixel
_ACROSS = 2
_LABEL_SHARE = 0.8
_EDGE, _NO_EDGE = (255, 255, 255), (0, 0, 0)


class InputPatch(NamedTuple):
    """A patch as the network sees it.

    Attributes:
        name: Of the patch's file, of several datasets after its dataset's.
        image: (bands, size, size) in the patches' type, augmented.
        label: (size, size) uint8, 255 where ignored.
        camera: Which changes of the camera were made, in their order.
        before: The image as it was before them.
    """

    name: str
    image: npt.NDArray[Any]
    label: npt.NDArray[np.uint8]
    camera: list[str]
    before: npt.NDArray[Any]


def write_batch_picture(
    options: TrainOptions, path: Path, *, overwrite: bool = False, patches: int = _PATCHES
) -> None:
    """Draw the first patches that a run would train on, augmented, as a PNG.

    Each patch is a row of panels: its first three bands (uint8 as they are; other types
    stretched from the 2nd to the 98th percentile of the patches shown), its label in the
    scheme's colours over them, the target of the edge loss, and the pixels that count: striped
    ones no loss looks at. Further bands follow in grey below. Where the recipe changes the camera,
    names of patches begin with what was changed, and two panels show the middle of the image,
    magnified, with it and without.

    Args:
        options: The run, as for `hrrsi.training.run.train`; nothing is trained.
        path: The picture.
        overwrite: Replace an existing picture.
        patches: How many patches to draw at most.

    Raises:
        HrrsiError: The picture exists, or the dataset can't be read.
    """
    if path.is_dir():
        raise OutputError("is a folder", where=path, fix="name a .png file in it")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            "exists already", where=path, fix="give `overwrite=True` to replace it, or another name"
        )
    prepare_folder(path.parent)
    data = run_data(options)
    description = data.description
    first_patches = list(islice(input_patches(data, options), patches))
    limits = stretch_limits([patch.before for patch in first_patches])
    has_camera = bool(options.recipe.camera_changes) and not options.overfit
    columns = (*_COLUMNS, *_DETAILS) if has_camera else _COLUMNS
    side = panel_side(first_patches[0].label.shape[0])
    keys = [
        *class_keys(description.label_names, description.label_colours),
        Key("ignored", striped_swatch()),
        Key("edge", plain_swatch(_EDGE)),
        Key("no edge", plain_swatch(_NO_EDGE)),
    ]
    further = description.band_names[_drawn_bands(first_patches[0].image) :]
    below = f"; below each in grey: {', '.join(further)}" if further else ""
    augmentation: str = "none (`overfit`)" if options.overfit else options.recipe.augmentation
    if any(input_resolutions(data, options)):
        low, high = options.recipe.resolutions or (0, 0)
        augmentation += f", {low:g} to {high:g} m a pixel"
    picture = patch_picture(
        [
            Group(_caption(p), _panels(p, description, limits, side, with_details=has_camera))
            for p in first_patches
        ],
        columns,
        keys,
        across=_ACROSS,
        title=f"First patches of epoch 1 as the network sees them: recipe "
        f"{options.recipe.described}, augmentation {augmentation}, seed {options.seed}{below}",
    )
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def input_patches(dataset: TiledDataset | RunData, options: TrainOptions) -> Iterator[InputPatch]:
    """Yield the patches of the first epoch of a run in their order, as the network sees them."""
    data = as_run_data(dataset)
    files = data.patches("train", options.overfit)
    here = replace(options, workers=0, devices=1, nodes=1)
    changed = TrainingPatches(data, here)
    unchanged = TrainingPatches(data, replace(here, recipe=replace(here.recipe, camera="none")))
    repeats: Counter[int] = Counter()
    for images, labels, indices in training_batches(data, here):
        for image, label, index in zip(images, labels, map(int, indices), strict=True):
            draw = Draw(0, index, repeats[index])
            repeats[index] += 1
            names = changed.camera_changes(draw)
            before = unchanged[draw][0].permute(2, 0, 1) if names else image
            yield InputPatch(files[index].name, image.numpy(), label.numpy(), names, before.numpy())


@dataclass(frozen=True)
class Group:
    """Panels that belong to one patch, under its name.

    Attributes:
        name: Written above the panels.
        rows: Panels (side, side, 3) of each row, all of one size.
    """

    name: str
    rows: Sequence[Sequence[RGB]]


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        name: What it stands for.
        swatch: (height, width, 3), drawn before the name.
    """

    name: str
    swatch: RGB


def patch_picture(
    groups: Sequence[Group], columns: Sequence[str], keys: Sequence[Key], *, across: int, title: str
) -> Image.Image:
    """Return groups of panels under each other, with the titles of their columns and a legend.

    Args:
        groups: All of one layout.
        columns: Titles of the panels of a group's first row.
        keys: The legend.
        across: Groups beside each other.
        title: Written above all.
    """
    side = len(groups[0].rows[0][0])
    step = side + _GAP
    group_width = step * max(len(columns), *(len(row) for row in groups[0].rows)) + 2 * _GAP
    group_height = _LINE + step * len(groups[0].rows) + _GAP
    across = min(across, len(groups))
    width = group_width * across + 2 * _GAP
    legend = _legend_places(keys, width)
    top = _LINE * 2 + 2 * _GAP + (legend[-1][1] + _LINE if legend else 0)
    height = top + group_height * -(-len(groups) // across) + _GAP
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    _write(draw, (2 * _GAP, _GAP), title, width - 4 * _GAP)
    for key, (x, y) in zip(keys, legend, strict=True):
        picture.paste(Image.fromarray(key.swatch), (x, y + _LINE + 2 * _GAP))
        _write(draw, (x + key.swatch.shape[1] + _GAP, y + _LINE + 2 * _GAP - 2), key.name, width)
    for number, group in enumerate(groups):
        left, y = 2 * _GAP + number % across * group_width, top + number // across * group_height
        if number < across:
            for column, name in enumerate(columns):
                _write(draw, (left + column * step, y - _LINE), name, side)
        _write(draw, (left, y), group.name, group_width - 2 * _GAP)
        for r, panels in enumerate(group.rows):
            for c, panel in enumerate(panels):
                place = (left + c * step, y + _LINE + r * step)
                picture.paste(Image.fromarray(panel), place)
    return picture


def panel_side(patch_size: int) -> int:
    """Return rows and columns of the panels for patches of a size: small ones are magnified."""
    return patch_size * max(1, _PANEL // patch_size) if patch_size <= _PANEL else _PANEL


def resized(values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return a map (H, W) or (H, W, 3) as (side, side): the pixel nearest to each centre."""
    rows, cols = (((np.arange(side) + 0.5) * n / side).astype(int) for n in values.shape[:2])
    nearest: npt.NDArray[Any] = values[rows[:, None], cols]
    return nearest


def stretch_limits(images: Sequence[npt.NDArray[Any]]) -> list[tuple[float, float]]:
    """Return what is drawn black and what white in each band of some patches.

    Args:
        images: (bands, H, W) each, of one type: uint8 is drawn as it is; of other types the 2nd
            to the 98th percentile of what is neither padding (0 in every band) nor nodata (NaN).
    """
    bands = len(images[0])
    if images[0].dtype == np.uint8:
        return [(0.0, 255.0)] * bands
    values = np.concatenate([image.reshape(bands, -1) for image in images], axis=1)
    values = values[:, np.isfinite(values).all(0) & (values != 0).any(0)].astype(np.float64)
    if not values.shape[1]:
        return [(0.0, 1.0)] * bands
    low, high = np.percentile(values, _PERCENTILES, axis=1)
    return [(float(a), float(b) if b > a else float(a) + 1) for a, b in zip(low, high, strict=True)]


def natural_colours(
    image: npt.NDArray[Any], limits: Sequence[tuple[float, float]], side: int
) -> RGB:
    """Return a patch (bands, H, W) as a panel of its first three bands, or its first in grey."""
    first = range(3) if len(image) >= 3 else (0, 0, 0)
    return np.stack([grey(image[b], limits[b], side)[..., 0] for b in first], axis=-1)


def grey(values: npt.NDArray[Any], limits: tuple[float, float], side: int) -> RGB:
    """Return a map (H, W) as a panel from black to white; NaN is black."""
    low, high = limits
    with np.errstate(invalid="ignore"):
        share = (_averaged(values, side) - low) / (high - low)
    shade = np.rint(np.nan_to_num(share).clip(0, 1) * 255).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=-1)


def ramp(values: npt.NDArray[Any], colours: str, side: int) -> RGB:
    """Return a map (H, W) of values from 0 to 1 as a panel in a colour map of matplotlib."""
    from matplotlib import colormaps

    panel: RGB = colormaps[colours](_averaged(values, side), bytes=True)[..., :3]
    return panel


def class_panel(label: npt.NDArray[np.uint8], colours: Sequence[Colour], side: int) -> RGB:
    """Return class indices (H, W) as a panel of their colours; ignored pixels are striped."""
    label = resized(label, side)
    return with_stripes(class_palette(colours)[label], label == IGNORE_INDEX)


def with_stripes(panel: RGB, ignored: npt.NDArray[np.bool_]) -> RGB:
    """Return a panel whose ignored pixels (side, side) are striped in two greys."""
    rows, cols = np.indices(ignored.shape)
    stripes = np.array(_STRIPES, dtype=np.uint8)[(rows + cols) // _STRIPE_WIDTH % 2]
    return np.where(ignored[..., None], stripes, panel)


def class_keys(classes: Sequence[str], colours: Sequence[Colour]) -> list[Key]:
    """Return the legend of the classes."""
    return [Key(n, plain_swatch(c)) for n, c in zip(classes, colours, strict=True)]


def plain_swatch(colour: Colour) -> RGB:
    """Return a rectangle of one colour for a legend, in a thin frame."""
    swatch = np.full((_TEXT, 2 * _TEXT, 3), colour, dtype=np.uint8)
    swatch[[0, -1]] = swatch[:, [0, -1]] = INK
    return swatch


def striped_swatch() -> RGB:
    """Return the stripes of ignored pixels for a legend."""
    blank = np.zeros((_TEXT, 2 * _TEXT, 3), dtype=np.uint8)
    return with_stripes(blank, np.ones(blank.shape[:2], dtype=bool))


def ramp_swatch(colours: str) -> RGB:
    """Return a colour map from 0 to 1 for a legend."""
    from matplotlib import colormaps

    row = colormaps[colours](np.linspace(0, 1, 5 * _TEXT), bytes=True)[:, :3]
    return np.repeat(row[None], _TEXT, axis=0)


def _caption(patch: InputPatch) -> str:
    ignored = (patch.label == IGNORE_INDEX).mean()
    caption = f"{patch.name} ({100 * ignored:.0f} % ignored)" if ignored else patch.name
    return f"{', '.join(patch.camera)}: {caption}" if patch.camera else caption


def _panels(
    patch: InputPatch,
    description: DatasetDescription,
    limits: list[tuple[float, float]],
    side: int,
    *,
    with_details: bool,
) -> list[list[RGB]]:
    image = natural_colours(patch.image, limits, side)
    ignored = resized(patch.label, side) == IGNORE_INDEX
    classes = class_panel(patch.label, description.label_colours, side)
    mixed = np.rint(_LABEL_SHARE * classes + (1 - _LABEL_SHARE) * image).astype(np.uint8)
    label = torch.from_numpy(patch.label.astype(np.int64))[None]
    edges = edge_target(label, candidate_table(description))[0].numpy()
    rows = [
        [
            image,
            np.where(ignored[..., None], classes, mixed),
            class_panel(edges.astype(np.uint8), [_NO_EDGE, _EDGE], side),
            with_stripes(image, ignored),
        ]
    ]
    bands = range(_drawn_bands(patch.image), len(patch.image))
    further = [grey(patch.image[b], limits[b], side) for b in bands]
    for start in range(0, len(further), len(_COLUMNS)):
        rows.append(further[start : start + len(_COLUMNS)])
    if with_details:
        rows[0] += [
            natural_colours(_middle(i, side // 2), limits, side)
            for i in (patch.image, patch.before)
        ]
    return rows


def _middle(image: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return the middle of a patch (bands, H, W), at most so many rows and columns of it."""
    first = max(0, (image.shape[1] - size) // 2)
    return image[:, first : first + size, first : first + size]


def _drawn_bands(image: npt.NDArray[Any]) -> int:
    """Return how many bands the natural colours show: three, or the only one."""
    return 3 if len(image) >= 3 else 1


def _averaged(values: npt.NDArray[Any], side: int) -> npt.NDArray[np.float32]:
    """Return a map (H, W) as (side, side): means where it shrinks, itself magnified if not."""
    picture = Image.fromarray(values.astype(np.float32))
    method = Image.Resampling.BOX if side < len(values) else Image.Resampling.NEAREST
    return np.asarray(picture.resize((side, side), method))


def _legend_places(keys: Sequence[Key], width: int) -> list[tuple[int, int]]:
    """Return the left upper corner of each entry, in as many lines as they need."""
    places, x, y = [], 2 * _GAP, 0
    for key in keys:
        entry_width = key.swatch.shape[1] + 5 * _GAP + round(text_font(_TEXT).getlength(key.name))
        if x > 2 * _GAP and x + entry_width > width:
            x, y = 2 * _GAP, y + _LINE
        places.append((x, y))
        x += entry_width
    return places


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """Write a line of text; what does not fit gives way to an ellipsis in the middle."""
    shown, keep = text, len(text)
    while text_font(_TEXT).getlength(shown) > width and keep > 2:
        keep -= 1
        shown = f"{text[: -(-keep // 2)]}…{text[len(text) - keep // 2 :]}"
    draw.text(place, shown, fill=INK, font=text_font(_TEXT))
