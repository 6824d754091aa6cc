"""Which scenes train, validate and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from hrrsi.errors import HrrsiError
from hrrsi.labels.labelled_scenes import natural_key
from hrrsi.labels.scheme import Scheme, Split, invalid_file, scenes_matching
from hrrsi.yaml_file import read_yaml

Part = Literal["train", "val", "test"]

_VALIDATION_SHARE = 5  # one training scene in so many, where a split names no validation scenes


@dataclass(frozen=True)
class SceneSplit:
    """The scenes of each part of a split, in natural order.

    Attributes:
        name: The split's name, its file, or ``"chosen scenes"``.
        train: Names of the training scenes.
        val: Names of the validation scenes.
        test: Names of the test scenes.
        taken: The validation scenes that were taken from training because the split names none.
        left_out: Scenes that no part names.
        absent: Names and patterns of the split that no scene fits.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    taken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[Part, tuple[str, ...]]:
        """The scenes by part, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}


def scene_split(
    scenes: Sequence[str],
    scheme: Scheme,
    *,
    split: str | None = None,
    val_scenes: Sequence[str] = (),
    test_scenes: Sequence[str] = (),
) -> SceneSplit:
    """Return how scenes are split.

    A split without ``train`` trains on every scene that it doesn't name. One without validation
    scenes gets some from training: those on which another split of the scheme validates, else
    about one in five, evenly spread over the natural order of names.

    Args:
        scenes: The scenes' names.
        scheme: Knows splits by name.
        split: Name of one of them, or a YAML file with lists ``train``, ``val``, ``test``. By
            default the scheme's first, unless scenes are chosen.
        val_scenes: Names or patterns of validation scenes; beside a `split` that names none they
            are taken from its training scenes.
        test_scenes: Names or patterns of test scenes, not beside `split`.

    Raises:
        HrrsiError: No such split, a scene in two parts, a chosen name that no scene fits, or
            nothing left to train on.
    """
    name, wanted = _wanted(scheme, split, val_scenes, test_scenes)
    ordered = sorted(scenes, key=natural_key)
    if split is None and (val_scenes or test_scenes):
        for option, patterns in (("--val-scenes", val_scenes), ("--test-scenes", test_scenes)):
            _refuse_absent(ordered, patterns, option)
    named = {part: scenes_matching(ordered, getattr(wanted, part)) for part in ("val", "test")}
    named["train"] = (
        scenes_matching(ordered, wanted.train)
        if wanted.train
        else [s for s in ordered if s not in named["val"] and s not in named["test"]]
    )
    _refuse_overlap(named, name)
    if split is not None and val_scenes:
        if wanted.val:
            raise HrrsiError(
                f"the split {name} names its own validation scenes",
                where="--val-scenes",
                fix="leave out --split or --val-scenes",
            )
        _refuse_absent(named["train"], val_scenes, "--val-scenes", " among its training scenes")
        named["val"] = scenes_matching(named["train"], val_scenes)
        named["train"] = [s for s in named["train"] if s not in named["val"]]
    taken: list[str] = []
    if not named["val"] and len(named["train"]) > 1:
        taken = _validation_scenes(named["train"], scheme)
        named["val"] = taken
        named["train"] = [s for s in named["train"] if s not in taken]
    if not named["train"]:
        raise HrrsiError(
            f"none of the {len(ordered)} scenes found is a training scene "
            f"({', '.join(ordered[:5])}{', ...' if len(ordered) > 5 else ''})",
            where=f"split {name}",
            fix="give the folder of the training scenes too, or another --split",
        )
    patterns = (*wanted.train, *wanted.val, *wanted.test)
    return SceneSplit(
        name=name,
        train=tuple(named["train"]),
        val=tuple(named["val"]),
        test=tuple(named["test"]),
        taken=tuple(taken),
        left_out=tuple(s for s in ordered if not any(s in part for part in named.values())),
        absent=tuple(p for p in patterns if not scenes_matching(ordered, [p])),
    )


def _wanted(
    scheme: Scheme, split: str | None, val_scenes: Sequence[str], test_scenes: Sequence[str]
) -> tuple[str, Split]:
    known = ", ".join(scheme.splits) or "none"
    if split is None:
        if val_scenes or test_scenes:
            return "chosen scenes", Split(val=tuple(val_scenes), test=tuple(test_scenes))
        if not scheme.splits:
            raise HrrsiError(
                "knows no split",
                where=f"scheme {scheme.name}",
                fix="give --split FILE.yaml, or --val-scenes and --test-scenes",
            )
        split = next(iter(scheme.splits))
    if test_scenes:
        raise HrrsiError(
            "the split names its own test scenes",
            where="--test-scenes",
            fix="leave out --split or --test-scenes",
        )
    if split in scheme.splits:
        return split, scheme.splits[split]
    if not split.endswith((".yaml", ".yml")):
        raise HrrsiError(
            f"knows no split {split!r}",
            where=f"scheme {scheme.name}",
            fix=f"choose from {known}, or name a .yaml file",
        )
    path = Path(split)
    try:
        return split, Split.model_validate(read_yaml(path))
    except ValidationError as error:
        raise invalid_file(
            path, error, "write lists train, val and test of scene names in quotes"
        ) from error


def _refuse_absent(
    scenes: Sequence[str], patterns: Sequence[str], option: str, among: str = ""
) -> None:
    for pattern in patterns:
        if not scenes_matching(scenes, [pattern]):
            few = f"{', '.join(scenes[:8])}{', ...' if len(scenes) > 8 else ''}"
            raise HrrsiError(
                f"no scene fits {pattern!r}{among}", where=option, fix=f"the scenes are {few}"
            )


def _refuse_overlap(named: dict[str, list[str]], name: str) -> None:
    seen: dict[str, str] = {}
    for part, scenes in named.items():
        for scene in scenes:
            if scene in seen:
                raise HrrsiError(
                    f"scene {scene} is in both {seen[scene]} and {part}",
                    where=f"split {name}",
                    fix="name it in one of them",
                )
            seen[scene] = part


def _validation_scenes(train: Sequence[str], scheme: Scheme) -> list[str]:
    for other in scheme.splits.values():
        chosen = scenes_matching(train, other.val)
        if chosen and len(chosen) < len(train):
            return chosen
    count = max(1, round(len(train) / _VALIDATION_SHARE))
    return [train[int((i + 0.5) * len(train) / count)] for i in range(count)]
