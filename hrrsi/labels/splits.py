"""Which scenes train, validate and test."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from hrrsi.errors import InputError, OptionError
from hrrsi.files import read_yaml
from hrrsi.labels.labelled_scenes import natural_key
from hrrsi.labels.scheme import Scheme, Split, invalid_file, scenes_matching
from hrrsi.quantities import names_text

NO_LABELS = "no labels"  # the name of a split of scenes that have none
ALL_TRAIN = "none"  # the name of no split: every scene trains

Part = Literal["train", "val", "test"]

_VALIDATION_SHARE = 5  # one training scene in so many, where a split names no validation scenes


@dataclass(frozen=True)
class SceneSplit:
    """The scenes of each part of a split, in natural order.

    Attributes:
        name: The split's name, its file, ``"chosen scenes"``, ``"no labels"``, ``"none"`` where all
            scenes train, or ``"blocks 70,15,15"``.
        train: Names of the training scenes.
        val: Names of the validation scenes.
        test: Names of the test scenes.
        val_from_train: The validation scenes that come from training because the split names none.
        unused_scenes: Scenes that no part names.
        unmatched_patterns: Names and patterns of the split that no scene fits.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    val_from_train: tuple[str, ...] = ()
    unused_scenes: tuple[str, ...] = ()
    unmatched_patterns: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[Part, tuple[str, ...]]:
        """The scenes by part, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}


def block_name(scene: str, row: int, column: int, digits: int = 1) -> str:
    """Return the name of a block of a scene, by its row and column among the blocks."""
    return f"{scene}_r{row:0{digits}d}c{column:0{digits}d}"


def scene_of_block(name: str) -> str:
    """Return the scene of a block by its name; what is no block's name stays as it is."""
    return re.sub(r"_r\d+c\d+$", "", name)


def scene_split(
    scenes: Sequence[str],
    scheme: Scheme,
    *,
    split: str | None = None,
    val_scenes: Sequence[str] = (),
    test_scenes: Sequence[str] = (),
    unlabelled: Collection[str] = (),
) -> SceneSplit:
    """Return how scenes are split.

    A split without ``train`` trains on every scene that it doesn't name. One without validation
    scenes gets some from training: those on which another split of the scheme validates, else
    about one in five, evenly spread over the natural order of names. Scenes without labels are none
    of these; where no scene has a label and nothing is chosen, all of them train.

    Args:
        scenes: The scenes' names.
        scheme: Knows splits by name.
        split: Name of one of them, or a YAML file with lists ``train``, ``val``, ``test``. By
            default the scheme's first, unless scenes are chosen.
        val_scenes: Names or patterns of validation scenes; beside a `split` that names none they
            are taken from its training scenes.
        test_scenes: Names or patterns of test scenes, not beside `split`.
        unlabelled: The scenes that have no label.

    Raises:
        OptionError: No such split, a chosen name that no scene fits, or two options that don't go
            together.
        InputError: A split file can't be used, a scene is in two parts, or nothing is left to
            train on.
    """
    if unlabelled and set(scenes) <= set(unlabelled) and not (split or val_scenes or test_scenes):
        return SceneSplit(NO_LABELS, tuple(sorted(scenes, key=natural_key)), (), ())
    name, parts = _named_split(scheme, split, val_scenes, test_scenes)
    ordered = sorted(scenes, key=natural_key)
    if split is None and (val_scenes or test_scenes):
        _require_matches(ordered, val_scenes, "val_scenes")
        _require_matches(ordered, test_scenes, "test_scenes")
    val = scenes_matching(ordered, parts.val)
    test = scenes_matching(ordered, parts.test)
    train = (
        scenes_matching(ordered, parts.train)
        if parts.train
        else [s for s in ordered if s not in val and s not in test]
    )
    _refuse_overlap({"val": val, "test": test, "train": train}, name)
    if split is not None and val_scenes:
        if parts.val:
            raise OptionError(
                f"the split {name} names its own validation scenes",
                parameter="val_scenes",
                fix="leave out `split` or `val_scenes`",
            )
        _require_matches(train, val_scenes, "val_scenes", " among its training scenes")
        val = scenes_matching(train, val_scenes)
    labelled = [s for s in train if s not in unlabelled]
    enough = labelled and len(train) > 1
    val_from_train = _validation_scenes(labelled, scheme) if enough and not val else []
    val = val or val_from_train
    train = [s for s in train if s not in val]
    if not train:
        raise InputError(
            f"none of the {len(ordered)} scenes found is a training scene "
            f"({names_text(ordered, most=5)})",
            where=f"split {name}",
            fix="give the folder of the training scenes too, or another `split`",
        )
    patterns = (*parts.train, *parts.val, *parts.test)
    return SceneSplit(
        name=name,
        train=tuple(train),
        val=tuple(val),
        test=tuple(test),
        val_from_train=tuple(val_from_train),
        unused_scenes=tuple(s for s in ordered if s not in {*train, *val, *test}),
        unmatched_patterns=tuple(p for p in patterns if not scenes_matching(ordered, [p])),
    )


def _named_split(
    scheme: Scheme, split: str | None, val_scenes: Sequence[str], test_scenes: Sequence[str]
) -> tuple[str, Split]:
    if split is None:
        if val_scenes or test_scenes:
            return "chosen scenes", Split(val=tuple(val_scenes), test=tuple(test_scenes))
        if not scheme.splits:
            raise InputError(
                "knows no split",
                where=f"scheme {scheme.name}",
                fix="give `split_blocks=70,15,15`, `split=FILE.yaml`, or `val_scenes` and "
                "`test_scenes`",
            )
        split = next(iter(scheme.splits))
    if test_scenes:
        raise OptionError(
            "the split names its own test scenes",
            parameter="test_scenes",
            fix="leave out `split` or `test_scenes`",
        )
    if split in scheme.splits:
        return split, scheme.splits[split]
    if not split.endswith((".yaml", ".yml")):
        raise OptionError(
            f"knows no split {split!r}",
            fix=f"choose from {', '.join(scheme.splits) or 'none'}, or name a .yaml file",
        ).at(f"scheme {scheme.name}")
    path = Path(split)
    try:
        return split, Split.model_validate(read_yaml(path))
    except ValidationError as error:
        raise invalid_file(
            path, error, "write lists train, val and test of scene names in quotes"
        ) from error


def _require_matches(
    scenes: Sequence[str], patterns: Sequence[str], parameter: str, among: str = ""
) -> None:
    for pattern in patterns:
        if not scenes_matching(scenes, [pattern]):
            raise OptionError(
                f"no scene fits {pattern!r}{among}",
                parameter=parameter,
                fix=f"the scenes are {names_text(scenes)}",
            )


def _refuse_overlap(parts: dict[str, list[str]], name: str) -> None:
    part_of: dict[str, str] = {}
    for part, scenes in parts.items():
        for scene in scenes:
            if scene in part_of:
                raise InputError(
                    f"scene {scene} is in both {part_of[scene]} and {part}",
                    where=f"split {name}",
                    fix="name it in one of them",
                )
            part_of[scene] = part


def _validation_scenes(train: Sequence[str], scheme: Scheme) -> list[str]:
    for other in scheme.splits.values():
        chosen = scenes_matching(train, other.val)
        if chosen and len(chosen) < len(train):
            return chosen
    count = max(1, round(len(train) / _VALIDATION_SHARE))
    return [train[int((i + 0.5) * len(train) / count)] for i in range(count)]
