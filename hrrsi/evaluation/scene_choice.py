"""Which scenes are evaluated, and what their labels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hrrsi.errors import InputError, OptionError
from hrrsi.evaluation.options import LabelKind
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme, scenes_matching
from hrrsi.quantities import names_text
from hrrsi.tiling.dataset import SPLITS


class ChosenScenes(NamedTuple):
    """Scenes to evaluate.

    Attributes:
        files: Their files.
        split: Which part of which split they are, e.g. ``"paper:val"``, or None.
        unlabelled: Scenes left out because they have no label.
        absent: Names and patterns of the split that no scene fits.
    """

    files: list[SceneFiles]
    split: str | None
    unlabelled: list[str]
    absent: list[str]


def chosen_scenes(
    available: Sequence[SceneFiles],
    scheme: Scheme,
    *,
    split: str | None = None,
    scenes: Sequence[str] = (),
) -> ChosenScenes:
    """Return the scenes that are asked for; by default every scene that has a label.

    Args:
        available: The scenes of some folders.
        scheme: Knows splits by name.
        split: ``NAME:PART`` such as ``paper:val``, a name alone (its test part, else its val
            part), or a part alone (of the scheme's first split).
        scenes: Names of scenes, or patterns such as ``tile1_*``, beside or instead of a split.

    Raises:
        InputError: No such split, none of its scenes is there, or a label is missing.
        OptionError: No scene fits one of `scenes`.
    """
    names = [f.name for f in available]
    absent: list[str] = []
    if split is not None:
        split, patterns = _split_patterns(scheme, split)
        absent = [p for p in patterns if not scenes_matching(names, [p])]
        names = scenes_matching(names, patterns)
        if not names:
            raise InputError(
                f"none of the {len(available)} scenes found is in the split {split}",
                where=f"`split={split}`",
                fix="give the folder of its scenes, or another split",
            )
    for pattern in scenes:
        if not scenes_matching(names, [pattern]):
            raise OptionError(
                f"no scene fits {pattern!r}",
                parameter="scenes",
                fix=f"the scenes are {names_text(names)}",
            )
    if scenes:
        names = scenes_matching(names, scenes)
    chosen = [f for f in available if f.name in names]
    # eroded labels alone will do, but not for some scenes where others have full ones
    full = any(f.label is not None for f in chosen)
    unlabelled = [f.name for f in chosen if (f.label if full else f.eroded_label) is None]
    if unlabelled and (split or scenes or len(unlabelled) == len(chosen)):
        patterns_looked_for = (*scheme.labels, *scheme.eroded_labels)
        raise InputError(
            f"has no label (looked for {' or '.join(patterns_looked_for) or 'none'})",
            where=f"scene {unlabelled[0]}",
            fix="give the folder of the labels too, or choose other scenes with `scenes`",
        )
    files = [f for f in chosen if f.name not in unlabelled]
    return ChosenScenes(files, split, unlabelled, absent)


def _split_patterns(scheme: Scheme, text: str) -> tuple[str, tuple[str, ...]]:
    """Return a split's full name ``NAME:PART`` and the scenes that it names."""
    name, colon, part = text.rpartition(":") if ":" in text else (text, "", "")
    if text in SPLITS and text not in scheme.splits:
        name, part = next(iter(scheme.splits), ""), text
    if name not in scheme.splits:
        raise InputError(
            f"knows no split {name or text!r}",
            where=f"scheme {scheme.name}",
            fix=f"it has {', '.join(scheme.splits) or 'none'}; or choose scenes with `scenes`",
        )
    parts = scheme.splits[name]
    if not part and not colon:
        part = "test" if parts.test else "val"
    if part not in SPLITS:
        raise InputError(
            f"a split has no part {part!r}", where=f"`split={text}`", fix="give train, val or test"
        )
    patterns: tuple[str, ...] = getattr(parts, part)
    if not patterns:
        raise InputError(
            f"names no {part} scenes", where=f"split {name}", fix="choose scenes with `scenes`"
        )
    return f"{name}:{part}", patterns


def labels_read(files: Sequence[SceneFiles]) -> LabelKind:
    """Return what the labels of scenes are: full, or eroded where no scene has full ones.

    Raises:
        InputError: A scene has no label, or eroded ones only where others have full ones.
    """
    for file in files:
        if file.label is None and file.eroded_label is None:
            raise InputError(
                "has no label", where=f"scene {file.name}", fix="give the folder of the labels too"
            )
    lacking = [file.name for file in files if file.label is None]
    if lacking and len(lacking) < len(files):
        raise InputError(
            "has eroded labels only, where others have full ones",
            where=f"scene {lacking[0]}",
            fix="give the folder of its full labels too, or leave it out with `scenes`",
        )
    return "eroded" if lacking else "full"
