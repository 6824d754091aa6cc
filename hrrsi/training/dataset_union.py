"""Several tiled datasets as one, their classes matched by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX, Colour, chosen_colours
from hrrsi.errors import InputError
from hrrsi.labels.scheme import PartialLabel
from hrrsi.tiling.dataset import SPLITS, DatasetDescription, SplitContent, TiledDataset
from hrrsi.training.augmentation import middle_resolution


class DatasetUnion:
    """Several tiled datasets as one: their classes and partial labels matched by name.

    Names are alike whatever their case. Classes come in the order of their first appearance, with
    the name that they have there, and the colour where no class before them has it. Partial labels
    that stand for the same classes are one.

    Args:
        datasets: The datasets.

    Attributes:
        classes: Name and colour of each class, by its folded name.

    Raises:
        InputError: They have other numbers of bands, heights in some only, no class in common, or
            too many classes in all.
    """

    def __init__(self, datasets: Sequence[TiledDataset]) -> None:
        _check_alike(datasets)
        own: dict[str, tuple[str, Colour]] = {}
        for dataset in datasets:
            about = dataset.description
            for name, colour in zip(about.classes, about.colours, strict=True):
                own.setdefault(name.casefold(), (name, colour))
        names, colours = zip(*own.values(), strict=True)
        different = chosen_colours(names, colours)
        self.classes = dict(zip(own, zip(names, different, strict=True), strict=True))
        self._indices = {name: index for index, name in enumerate(self.classes)}
        self._partial: dict[frozenset[int], PartialLabel] = {}
        for dataset in datasets:
            for label in dataset.description.partial:
                self._add_partial(label)
        self._settle_partial_colours()
        if len(self.classes) + len(self._partial) >= IGNORE_INDEX:
            raise InputError(
                f"have {len(self.classes)} classes and {len(self._partial)} partial labels in all, "
                f"over {IGNORE_INDEX - 1}",
                where=", ".join(str(dataset.folder) for dataset in datasets),
                fix="tile them with schemes that name classes alike",
            )

    def table(self, description: DatasetDescription) -> npt.NDArray[np.uint8]:
        """Return the index of each label index of a dataset, (256,)."""
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        for index, name in enumerate(description.classes):
            table[index] = self._indices[name.casefold()]
        sets = list(self._partial)
        for index, label in enumerate(description.partial, len(description.classes)):
            candidates = self._candidates(label)
            if candidates in self._partial:
                table[index] = len(self.classes) + sets.index(candidates)
            elif len(candidates) == 1:  # of names that differ in their case alone
                (table[index],) = candidates
        return table

    def description(
        self, parts: Mapping[str, DatasetDescription], shares: Sequence[float]
    ) -> DatasetDescription:
        """Return what ``dataset.yaml`` would say of all datasets together.

        Bands, type and scale are the first's; statistics and frequencies are those of what is
        drawn, and so are the training scenes and the ground resolution.

        Args:
            parts: What each says, by the name that its scenes' names are to begin with.
            shares: Shares of the patches drawn, which add up to 1.
        """
        about = list(parts.values())
        first, weights = about[0], np.asarray(shares)
        # of values on the scale of the first: heights are metres in all of them
        units = np.array([band_gains(p, first) * (p.scale / first.scale) for p in about])
        means, stds = units * [p.mean for p in about], units * [p.std for p in about]
        mean = weights @ means
        std = np.sqrt(weights @ (stds**2 + means**2) - mean**2)
        frequencies = np.zeros(IGNORE_INDEX + 1)
        for part, share in zip(about, shares, strict=True):
            own = np.array(part.class_frequencies)
            pixels = share * _labelled_share(part)
            np.add.at(frequencies, self.table(part)[: len(own)], pixels * own)
        # datasets without labels have none
        frequencies /= frequencies.sum() or 1
        drawn = {name: p for (name, p), share in zip(parts.items(), shares, strict=True) if share}
        parts_of = {split: drawn if split == "train" else parts for split in SPLITS}
        resolutions = [p.resolution for p in drawn.values() if p.resolution != "unknown"]
        return first.model_copy(
            update={
                "scheme": " + ".join(dict.fromkeys(p.scheme for p in about)),
                "split": None,
                "classes": [name for name, _ in self.classes.values()],
                "colours": [colour for _, colour in self.classes.values()],
                "partial": list(self._partial.values()),
                "band_meanings": first.band_meanings
                if len({p.band_meanings for p in about}) == 1
                else None,
                "mean": mean.tolist(),
                "std": std.tolist(),
                "statistics": "measured",
                "class_frequencies": frequencies[: len(self.classes)].tolist(),
                "resolution": middle_resolution(min(resolutions), max(resolutions))
                if len(resolutions) == len(drawn)
                else "unknown",
                "patch_size": min(p.patch_size for p in about),
                "splits": {
                    split: self._content(split, own)
                    for split, own in parts_of.items()
                    if any(p.split_content(split) for p in own.values())
                },
            }
        )

    def _content(self, split: str, parts: Mapping[str, DatasetDescription]) -> SplitContent:
        pixels = np.zeros(IGNORE_INDEX + 1, dtype=np.int64)
        contents = {name: part.split_content(split) for name, part in parts.items()}
        present = {name: content for name, content in contents.items() if content is not None}
        for name, content in present.items():
            own = content.label_pixels
            np.add.at(pixels, self.table(parts[name])[: len(own)], own)
        kinds = {content.labels for content in present.values()}
        classes = len(self.classes)
        return SplitContent(
            scenes=[f"{name}/{scene}" for name, c in present.items() for scene in c.scenes],
            patches=sum(content.patches for content in present.values()),
            class_pixels=pixels[:classes].tolist(),
            partial_pixels=pixels[classes : classes + len(self._partial)].tolist(),
            ignored_pixels=sum(c.ignored_pixels for c in present.values())
            + int(pixels[IGNORE_INDEX]),
            labels=kinds.pop() if len(kinds) == 1 else "full",
        )

    def _add_partial(self, label: PartialLabel) -> None:
        candidates = self._candidates(label)
        if candidates in self._partial or not 1 < len(candidates) < len(self.classes):
            return
        names = [name for name, _ in self.classes.values()]
        taken = {other.name for other in self._partial.values()} | {*names}
        listed = tuple(names[index] for index in sorted(candidates))
        name = label.name if label.name not in taken else " or ".join(listed)
        self._partial[candidates] = PartialLabel(name=name, colour=label.colour, classes=listed)

    def _settle_partial_colours(self) -> None:
        """Give partial labels whose colour a class or another one has a colour of their own."""
        names = [name for name, _ in self.classes.values()]
        names += [label.name for label in self._partial.values()]
        own = [colour for _, colour in self.classes.values()]
        own += [label.colour for label in self._partial.values()]
        different = chosen_colours(names, own)[len(self.classes) :]
        self._partial = {
            candidates: label.model_copy(update={"colour": colour})
            for (candidates, label), colour in zip(self._partial.items(), different, strict=True)
        }

    def _candidates(self, label: PartialLabel) -> frozenset[int]:
        return frozenset(self._indices[name.casefold()] for name in label.classes)


def _labelled_share(description: DatasetDescription) -> float:
    """Return which share of a dataset's training pixels has a label."""
    content = description.split_content("train")
    labelled = sum(content.label_pixels) if content else 0
    return labelled / (labelled + content.ignored_pixels) if content and labelled else 0.0


def band_gains(
    description: DatasetDescription, first: DatasetDescription
) -> npt.NDArray[np.float32]:
    """Return what bringing each band's values to the first dataset's scale takes, (bands,)."""
    bands = len(description.bands)
    gains = np.full(bands, first.scale / description.scale, dtype=np.float32)
    return gains if description.height is None else np.append(gains, np.float32(1))


def _check_alike(datasets: Sequence[TiledDataset]) -> None:
    first = datasets[0].description
    for dataset in datasets[1:]:
        about = dataset.description
        if (about.height is None) != (first.height is None):
            without_heights, with_heights = (
                (datasets[0], dataset) if first.height is None else (dataset, datasets[0])
            )
            raise InputError(
                f"has no heights, which {with_heights.folder} has",
                where=without_heights.folder,
                fix="tile both with `height`, or both without",
            )
        if len(about.bands) != len(first.bands):
            raise InputError(
                f"has {len(about.bands)} bands, where {datasets[0].folder} has {len(first.bands)}",
                where=dataset.folder,
                fix="tile them with the same number of `bands`",
            )
        pair = first.band_meanings, about.band_meanings
        orders = [",".join(map(str, meanings or ())) for meanings in pair]
        if orders[0] != orders[1] and len({tuple(sorted(map(str, m or ()))) for m in pair}) == 1:
            raise InputError(
                f"its bands are {orders[1]}, where those of {datasets[0].folder} are {orders[0]}",
                where=dataset.folder,
                fix="tile them with the same order of `bands`",
            )
    for dataset in datasets:
        own = {name.casefold() for name in dataset.description.classes}
        other_names = {
            name.casefold()
            for other in datasets
            if other is not dataset
            for name in other.description.classes
        }
        if not own & other_names:
            raise InputError(
                f"has no class in common with the other datasets ({', '.join(own)})",
                where=dataset.folder,
                fix="name classes alike in the schemes, and tile it again",
            )
