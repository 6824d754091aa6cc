"""Which scenes and maps are evaluated, and which label is whose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hrrsi.errors import InputError, MissingInputError, OptionError
from hrrsi.evaluation.options import LabelKind
from hrrsi.files import named_layer
from hrrsi.labels.labelled_scenes import SceneFiles, labelled_scenes
from hrrsi.labels.scheme import Scheme, match_scene, scenes_matching
from hrrsi.maps.rasters import read_class_raster
from hrrsi.quantities import names_text
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES
from hrrsi.scenes.scene_rasters import is_product
from hrrsi.tiling.dataset import SPLITS

_MAP_ENDING = "_classes"


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
    unlabelled = [file.name for file in files if file.label is None]
    if unlabelled and len(unlabelled) < len(files):
        raise InputError(
            "has eroded labels only, where others have full ones",
            where=f"scene {unlabelled[0]}",
            fix="give the folder of its full labels too, or leave it out with `scenes`",
        )
    return "eroded" if unlabelled else "full"


def paired_maps(
    maps: Sequence[Path],
    labels: Sequence[Path],
    scheme: Scheme,
    *,
    split: str | None = None,
    scenes: Sequence[str] = (),
) -> ChosenScenes:
    """Return scenes with their maps and labels; each scene's image is its map.

    One vector file holds the labels of all maps. As many files of maps as of labels belong together
    by their names or, where these pair none of them, in their order. Else a label is of the scene
    that the scheme's patterns say (its folders may be others than theirs, and a file given by
    itself may have any name), and a map is of the scene of which it has the name, the image's or
    the label's, as ``SCENE_classes.tif`` or, where there is none, ``SCENE.tif`` of any suffix.
    Confidences and probabilities beside maps of ours are passed over.

    Args:
        maps: Rasters, and folders of them.
        labels: Files; or folders (searched with their subfolders) and zip archives.
        scheme: Says how labels are named.
        split: As for `chosen_scenes`: which of the labels count.
        scenes: Likewise. Maps of scenes that are not chosen are passed over.

    Raises:
        InputError: A path is missing or given twice, there is no map or label, a map without
            label, a label without map, or two that claim one scene.
    """
    files = _map_files(maps)
    _refuse_repeated(files)
    _refuse_repeated(labels)
    if all(
        Path(named_layer(path)[0]).is_file() and path.suffix.lower() != ".zip" for path in labels
    ):
        if len(labels) == 1 and scheme.reads_polygons(str(labels[0])):
            return _scenes_of_label_file(files, labels[0], scheme, split, scenes)
        labelled = _label_files(labels, scheme)
        if len(files) == len(labelled) and not any(path.is_dir() for path in maps):
            named = _maps_by_scene(files, [scene.name for scene in labelled], scheme)
            unpaired = [path for path in files if path not in named.values()]
            if named and len(unpaired) > 1:
                raise InputError(
                    f"the names pair only {len(named)} of {len(labelled)} maps with their labels",
                    where=unpaired[0],
                    fix="name all maps like their labels, or none",
                )
            rest = iter(unpaired)
            pairs = [
                replace(scene, image=str(named.get(scene.name) or next(rest))) for scene in labelled
            ]
            return chosen_scenes(pairs, scheme, split=split, scenes=scenes)
    else:
        labelled = _labels_in_folders(labels, scheme)
    chosen = chosen_scenes(labelled, scheme, split=split, scenes=scenes)
    by_scene = _maps_by_scene(files, [scene.name for scene in labelled], scheme)
    if split is None and not scenes:
        _refuse_without_label(files, by_scene, labelled)
    mapped = [scene for scene in chosen.files if scene.name in by_scene]
    if len(mapped) < len(chosen.files):
        absent = next(scene.name for scene in chosen.files if scene.name not in by_scene)
        raise InputError(
            f"has a label and no map ({len(mapped)} of {len(chosen.files)} scenes have one)",
            where=f"scene {absent}",
            fix=f"give its map as {absent}{_MAP_ENDING}.tif, or choose other scenes with `scenes`",
        )
    return chosen._replace(
        files=[replace(scene, image=str(by_scene[scene.name])) for scene in chosen.files]
    )


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


def _scenes_of_label_file(
    files: Sequence[Path],
    label: Path,
    scheme: Scheme,
    split: str | None,
    scenes: Sequence[str],
) -> ChosenScenes:
    """Return the scenes of maps whose labels are all in one vector file."""
    # one map has the label's name, so that two maps of a place have the same and can be compared
    names = [label.stem] if len(files) == 1 else [_own_name(path) for path in files]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        paths = [path for path, name in zip(files, names, strict=True) if name == twice]
        raise _claim_error(twice, paths[0], paths[1])
    pairs = [
        SceneFiles(name, str(path), str(label)) for name, path in zip(names, files, strict=True)
    ]
    return chosen_scenes(pairs, scheme, split=split, scenes=scenes)


def _refuse_repeated(paths: Sequence[Path]) -> None:
    """Raise where a file would count twice."""
    resolved: set[Path] = set()
    for path in paths:
        if path.resolve() in resolved:
            raise InputError("is given twice", where=path, fix="give it once")
        resolved.add(path.resolve())


def _map_files(maps: Sequence[Path]) -> list[Path]:
    """Return the rasters among paths and in folders."""
    files = []
    for path in maps:
        if path.is_dir():
            inside = _rasters_in(path)
            if not inside:
                raise InputError("holds no rasters", where=path, fix="name the folder of the maps")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise MissingInputError("no such file or folder", where=path, fix="check the path")
    return files


def _rasters_in(folder: Path) -> list[Path]:
    """Return the rasters below a folder but hidden ones."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in RASTER_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _label_files(labels: Sequence[Path], scheme: Scheme) -> list[SceneFiles]:
    """Return the scenes of labels that are given one by one, by default named after them."""
    full = _with_any_folders((*scheme.labels, *scheme.images))
    eroded = _with_any_folders(scheme.eroded_labels)
    labelled: dict[str, SceneFiles] = {}
    for path in labels:
        place = path.absolute().as_posix()
        field, name = "eroded_label", match_scene(scheme, eroded, place)
        if name is None:
            field, name = "label", match_scene(scheme, full, place) or path.stem
        if name in labelled and getattr(labelled[name], field) is not None:
            name = str(path)  # of one name in several folders
        scene = labelled.get(name, SceneFiles(name, str(path)))
        full_label, eroded_label = scene.label, scene.eroded_label
        if field == "label":
            full_label = str(path)
        else:
            eroded_label = str(path)
        labelled[name] = replace(scene, label=full_label, eroded_label=eroded_label)
    return list(labelled.values())


def _labels_in_folders(labels: Sequence[Path], scheme: Scheme) -> list[SceneFiles]:
    """Return the scenes that folders and archives hold labels of.

    The scheme's folders count only where they are there. Where folders hold no names of the
    scheme, each raster is a label, named after itself.

    Raises:
        InputError: As `labelled_scenes`.
    """
    failures: list[InputError] = []
    eroded_only: list[SceneFiles] = []
    loose = _with_any_folders(scheme.labels), _with_any_folders(scheme.eroded_labels)
    for full, eroded in ((scheme.labels, scheme.eroded_labels), loose):
        # a scene is whatever has a label; names of full ones may fit eroded ones too, as others
        patterns = {"images": (*eroded, *full), "labels": full, "eroded_labels": eroded}
        try:
            labelled = labelled_scenes(labels, scheme.model_copy(update=patterns))
        except InputError as error:
            failures.append(error)
            continue
        if full is not scheme.labels and any(_is_image(scene.label, scheme) for scene in labelled):
            continue  # without their folders, names of labels may be those of images
        if any(scene.label is not None for scene in labelled):
            return labelled
        eroded_only = eroded_only or labelled
    if eroded_only:
        return eroded_only
    if all(path.is_dir() and _rasters_in(path) for path in labels):
        return _label_files(_map_files(labels), scheme)
    raise failures[0]


def _is_image(path: str | None, scheme: Scheme) -> bool:
    return path is not None and match_scene(scheme, scheme.images, path) is not None


def _with_any_folders(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return patterns, and after them the same without the folders that name no scene."""
    looser = ["/".join(part for part in p.split("/") if "{" in part) for p in patterns]
    return tuple(dict.fromkeys([*patterns, *looser]))


def _own_name(path: Path) -> str:
    return path.stem.removesuffix(_MAP_ENDING)


def _maps_by_scene(files: Sequence[Path], scenes: Sequence[str], scheme: Scheme) -> dict[str, Path]:
    """Return the map of each scene that has one.

    Raises:
        InputError: Two maps claim one scene.
    """
    stems = [str(PurePosixPath(pattern).with_suffix("")) for pattern in _patterns_of_maps(scheme)]
    best: dict[str, tuple[tuple[bool, bool], Path]] = {}
    for path in files:
        own = path.absolute().with_name(_own_name(path)).as_posix()
        names = [_own_name(path), *(match_scene(scheme, [pattern], own) for pattern in stems)]
        scene = next((name for name in names if name in scenes), None)
        if scene is None:
            continue
        # beside a map may stand its picture, or the image that it was made from
        rank = (
            not path.stem.endswith(_MAP_ENDING),
            path.suffix.lower() not in (".tif", ".tiff", ".vrt"),
        )
        if scene in best and best[scene][0] == rank:
            raise _claim_error(scene, best[scene][1], path)
        if scene not in best or rank < best[scene][0]:
            best[scene] = rank, path
    return {scene: path for scene, (_, path) in best.items()}


def _patterns_of_maps(scheme: Scheme) -> tuple[str, ...]:
    return _with_any_folders((*scheme.images, *scheme.labels))


def _refuse_without_label(
    files: Sequence[Path], by_scene: dict[str, Path], labelled: Sequence[SceneFiles]
) -> None:
    """Raise where a raster is the map of no scene that has a label."""
    names = {_own_name(path) for path in by_scene.values()}
    for path in files:
        if path in by_scene.values() or _own_name(path) in names:
            continue
        if is_product(path) and read_class_raster(path) is None:
            continue
        names_with_label = names_text([scene.name for scene in labelled])
        raise InputError(
            f"no label fits it (there are those of {names_with_label})",
            where=path,
            fix=f"add the label, name the map SCENE{_MAP_ENDING}.tif or SCENE.tif, or choose "
            "scenes with `scenes`",
        )


def _claim_error(scene: str, first: Path, second: Path) -> InputError:
    return InputError(
        f"the maps {first} and {second} claim the same scene",
        where=f"scene {scene}",
        fix="give one of them",
    )
