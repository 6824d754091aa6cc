"""Opens what the viewer shows: maps of any tool, the scenes below them, labels, confidences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.classes import Colour
from hrrsi.errors import HrrsiError, InputError, MissingInputError
from hrrsi.evaluation.map_classes import open_map
from hrrsi.labels.file_scheme import FileSchemeOptions, file_scheme
from hrrsi.labels.label_reading import mask_scheme, open_labels
from hrrsi.labels.laid_classes import LaidMap, has_place, on_grid, placement
from hrrsi.labels.merged_classes import merged_classes
from hrrsi.labels.scene_labels import Indices
from hrrsi.labels.scheme import load_scheme
from hrrsi.maps.rasters import TAG, read_class_raster
from hrrsi.maps.styles import is_as_written, scene_of
from hrrsi.quantities import names_text
from hrrsi.scenes.bands import (
    BLUE,
    GREEN,
    RED,
    alpha_bands,
    alpha_is_imagery,
    bands_showing,
    colour_bands,
    open_imagery,
)
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES, is_local, open_raster, opened_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.value_scale import scene_sample
from hrrsi.scenes.windows import Window
from hrrsi.viewer.layers import (
    RIGHT_COLOUR,
    WRONG_COLOUR,
    ClassLayer,
    ComparedClasses,
    SharedReader,
    StoredClasses,
)
from hrrsi.viewer.options import ViewOptions
from hrrsi.viewer.pictures import SceneLayer, ScoreLayer
from hrrsi.viewer.places import MAP_ENDING, OpenLabels, OpenMap, Place

_MOST_MAPS = 100
_LEAST_COVERED = 0.5  # of a map, by another one that is shown on its grid
_SAME_RUN = ("VERSION", "MODEL", "WEIGHTS_SHA256", "ENGINE", "OPTIONS")


def open_places(
    stack: ExitStack,
    maps: Sequence[str],
    scene: str | None,
    labels: str | None,
    options: ViewOptions,
    say: Callable[[str], None],
) -> list[Place]:
    """Open maps, with what is shown beside them, until `stack` closes.

    Maps that lie on another one's place, on half of it at least, are laid on its grid.

    Args:
        stack: Closes what is opened.
        maps: Rasters, and folders of maps of hrrsi's.
        scene: The scene of all of them, or None: those that the maps know.
        labels: Labels of all of them, or None.
        options: How they are read.
        say: Called with what a person should know.

    Raises:
        InputError: A file can't be read or lies elsewhere, or a raster is no map of classes.
    """
    opener = _Opener(stack, options, say, scene)
    places: list[Place] = []
    for path in _map_files(maps):
        opened = opener.map(path)
        laid = next(((p, own) for p in places if (own := _laid_on(opened, p)) is not None), None)
        if laid is None:
            places.append(opener.place(opened))
        else:
            opener.add_map(laid[0], opened, laid[1])
    for place in places:
        place.name = _place_name(place)
    _name_layers(places)
    _on_some(places, scene, lambda place: opener.add_scene(place, scene), say)
    if labels is not None:
        _on_some(places, labels, lambda place: opener.add_labels(place, labels), say)
    for place in places:
        if not any(isinstance(layer, SceneLayer) for layer in place.layers):
            place.notes.append("The scene is not known, so the map is shown alone.")
    return places


def _on_some(
    places: Sequence[Place],
    given: str | None,
    add: Callable[[Place], None],
    say: Callable[[str], None],
) -> None:
    """Add a file to each place that it lies on.

    Raises:
        InputError: It lies on none of them.
    """
    failures = []
    for place in places:
        try:
            add(place)
        except InputError as error:
            if given is None or len(places) == 1:
                raise
            failures.append((place, error))
    if failures and len(failures) == len(places):
        raise failures[0][1]
    for place, failure in failures:
        say(f"note: {place.first.path}: shown without {given}: {failure.what}")


def _map_files(paths: Sequence[str]) -> list[str]:
    """Return the rasters among paths, and the maps of hrrsi's in folders.

    Raises:
        InputError: A path is missing, a folder holds none, or they are too many.
    """
    files = []
    for path in paths:
        local = Path(path)
        if not (is_local(path) and local.is_dir()):
            files.append(path)
            continue
        rasters = (p for p in sorted(local.rglob("*")) if p.suffix.lower() in RASTER_SUFFIXES)
        inside = [str(p) for p in rasters if p.is_file() and read_class_raster(p) is not None]
        if not inside:
            raise InputError("holds no maps of hrrsi's", where=path, fix="name the maps one by one")
        files += inside
    if len(files) > _MOST_MAPS:
        raise InputError(
            f"{len(files)} maps are more than the {_MOST_MAPS} that can be shown at once",
            where=paths[0],
            fix="name some of them",
        )
    return list(dict.fromkeys(files))


def _laid_on(opened: OpenMap, place: Place) -> Any | None:
    """Return what reads a map on the grid of a place, None where it is of another place."""
    own = opened.classes.scene
    if not (has_place(own) and has_place(place.grid)):
        is_known = opened.scene_path == place.first.scene_path
        return opened.classes if is_known and own.shape == place.grid.shape else None
    try:
        laid = on_grid(opened.classes, place.grid, "map")
    except InputError:
        return None
    if isinstance(laid, LaidMap) and laid.covered_share(*place.grid.shape) < _LEAST_COVERED:
        return None
    return laid


def _place_name(place: Place) -> str:
    names = list(dict.fromkeys(own.name for own, _ in place.maps))
    return names_text(names, most=2)


def _name_layers(places: Sequence[Place]) -> None:
    """Call maps by their files where there are several, by their paths where these are the same."""
    for place in places:
        if len(place.maps) == 1:
            continue
        names = [Path(own.path).name for own, _ in place.maps]
        for (own, layer), name in zip(place.maps, names, strict=True):
            layer.label = name if names.count(name) == 1 else own.path


@dataclass
class _Opener:
    """Opens what is shown, until a stack closes; `scene` is that of all maps, if one is given."""

    stack: ExitStack
    options: ViewOptions
    say: Callable[[str], None]
    scene: str | None

    def map(self, path: str) -> OpenMap:
        """Open a map.

        Raises:
            InputError: It can't be read, or is no map of classes.
        """
        if is_local(path) and not Path(path).exists():
            raise MissingInputError("no such file or folder", where=path, fix="check the path")
        dataset = self.stack.enter_context(open_raster(path))
        kind = dataset.tags().get(TAG + "CONTENT")
        if kind is not None:
            raise InputError(
                f"is no map of classes, but hrrsi's {kind}",
                where=path,
                fix=f"name the class map: {MAP_ENDING[1:]} ends its name",
            )
        content = read_class_raster(path)
        if content is None:
            return self._other_map(path)
        scene = Scene(path, dataset, (1,))
        colours = _stored_colours(dataset, len(content.classes))
        as_written = is_as_written(Path(path)) if is_local(path) else None
        if as_written is False:
            self.say(f"note: {path}: was changed since it was written, so it is counted anew")
        return OpenMap(
            path,
            StoredClasses(scene, len(content.classes)),
            content.classes,
            colours,
            content,
            self._scene_beside(path, scene),
            as_written is True,
        )

    def _other_map(self, path: str) -> OpenMap:
        """Open a map of another tool's."""
        try:
            if self.options.scheme is not None:
                scheme = load_scheme(self.options.scheme)
            else:
                of_file = file_scheme([path], [path])
                scheme = of_file.scheme
                for note in of_file.notes:
                    self.say(note)
            merged = merged_classes(scheme)
            classes = self.stack.enter_context(open_map(path, scheme, merged, name=Path(path).stem))
        except InputError as error:
            if error.where is None or str(error.where) != path or "cannot be read" in error.what:
                raise
            raise InputError(
                f"is no map of classes: {error.what.removeprefix('is no map of classes: ')}",
                where=path,
                fix="name a raster of classes, and imagery as `scene`",
            ) from error
        beside = self._scene_beside(path, classes.scene)
        return OpenMap(path, classes, merged.names, merged.colours, None, beside, False)

    def _scene_beside(self, path: str, own: Scene) -> str | None:
        """Return the scene that a map was made of, where it still is or lies beside the map."""
        if self.scene is not None or not is_local(path):
            return self.scene
        file = Path(path)
        recorded = scene_of(file)
        candidates = []
        if recorded is not None:
            candidates += [recorded, str(file.with_name(Path(recorded).name))]
        if file.stem.endswith(MAP_ENDING):
            stem = file.stem.removesuffix(MAP_ENDING)
            candidates += [str(file.with_name(stem + end)) for end in sorted(RASTER_SUFFIXES)]
        for name in candidates:
            if is_local(name) and not Path(name).is_file():
                continue
            try:
                with open_imagery(name, 3) as dataset:
                    on_grid(_Raster(Scene(name, dataset, (1,))), own, "map")
            except HrrsiError:
                continue
            return name
        if recorded is not None:
            self.say(
                f"note: {path}: its scene is not where it was ({recorded}); give it as `scene`"
            )
        else:
            self.say(f"note: {path}: does not say which scene it is of; give it as `scene`")
        return None

    def place(self, opened: OpenMap) -> Place:
        """Return a place with a map on its own grid."""
        place = Place("", opened.classes.scene, opened)
        self.add_map(place, opened, opened.classes)
        return place

    def add_map(self, place: Place, opened: OpenMap, laid: Any) -> None:
        """Add a map to a place, with its confidences where they lie beside it."""
        opened.is_on_grid = laid is opened.classes
        as_stored = opened.is_as_written and opened.is_on_grid
        overviews = self._overviews(opened) if as_stored else {}
        layer = ClassLayer(
            "Map", place.grid.shape, SharedReader(laid), opened.names, opened.colours, overviews
        )
        place.maps.append((opened, layer))
        number = place.add(layer)
        if isinstance(laid, LaidMap):
            words = placement(opened.classes.scene, place.grid)
            words = words.replace("its image", Path(place.first.path).name)
            place.notes.append(
                f"{Path(opened.path).name} {words}: shown and counted on that grid, by nearest "
                "pixel."
            )
        scores = self._scores(opened) if opened.is_on_grid else None
        if scores is not None:
            place.scores[number] = place.add(scores)

    def _overviews(self, opened: OpenMap) -> dict[int, SharedReader]:
        """Return what reads the overviews of a map that is as hrrsi wrote it, by level."""
        readers = {}
        factors = opened.classes.scene.dataset.overviews(1)
        for number, factor in enumerate(factors):
            level = int(factor).bit_length() - 1
            if factor != 1 << level:
                return {}
            dataset = self.stack.enter_context(opened_raster(opened.path, overview_level=number))
            scene = Scene(opened.path, dataset, (1,))
            readers[level] = SharedReader(StoredClasses(scene, len(opened.names)))
        return readers

    def _scores(self, opened: OpenMap) -> ScoreLayer | None:
        """Return the confidences beside a map, where they are of the same run."""
        path = Path(opened.path)
        beside = path.with_name(f"{path.stem.removesuffix(MAP_ENDING)}_confidence.tif")
        if opened.content is None or not is_local(opened.path) or not beside.is_file():
            return None
        dataset = self.stack.enter_context(open_raster(beside))
        tags = {key.removeprefix(TAG): value for key, value in dataset.tags().items()}
        made_by = opened.content.provenance
        is_of_run = all(tags.get(key) == made_by.get(key) for key in _SAME_RUN)
        own = opened.classes.scene
        is_on_map = dataset.shape == own.shape and dataset.transform == own.dataset.transform
        if tags.get("CONTENT") != "confidence" or not (is_of_run and is_on_map):
            self.say(f"note: {beside}: left out, for it is of another run than {opened.path}")
            return None
        return ScoreLayer("Confidence", dataset, str(beside))

    def add_scene(self, place: Place, given: str | None) -> None:
        """Put the scene below the maps of a place, where it is known.

        Raises:
            InputError: It can't be read, or lies elsewhere.
        """
        path = given or next((own.scene_path for own, _ in place.maps if own.scene_path), None)
        if path is None:
            return
        dataset = self.stack.enter_context(open_imagery(path, 3))
        bands = self._shown_bands(place, dataset, path)
        scene = Scene(path, dataset, tuple(bands))
        laid = on_grid(_Raster(scene), place.grid, "map")
        if isinstance(laid, LaidMap) and not all(
            raster.dataset.gcps[0] == [] or raster.dataset.transform.is_identity is False
            for raster in (scene, place.grid)
        ):
            raise InputError(
                f"has another grid than {place.first.path}, and control points place one of them",
                where=path,
                fix="warp both with `gdalwarp` to one grid",
            )
        is_picture = dataset.dtypes[bands[0] - 1] == "uint8"
        options = place.first.options
        nodata = options.get("nodata")
        layer = SceneLayer(
            "Scene",
            dataset,
            bands,
            path,
            grid=place.grid.dataset if isinstance(laid, LaidMap) else None,
            sample=None if is_picture else scene_sample(scene).values,
            nodata=nodata if isinstance(nodata, int | float) else None,
            masked=not (alpha_bands(dataset) and alpha_is_imagery(dataset)),
        )
        place.add(layer)
        if isinstance(laid, LaidMap):
            words = placement(scene, place.grid).replace("its image", "the map")
            place.notes.append(f"The scene {words}: shown on the map's grid.")

    def _shown_bands(self, place: Place, dataset: Any, path: str) -> list[int]:
        """Return the bands that are shown: those asked for, of the map, or red, green and blue."""
        made_of = place.first.options.get("bands")
        if not isinstance(made_of, list) or max(made_of) > dataset.count:
            made_of = None  # of a scene of more bands
        candidates = (
            self.options.bands
            or made_of
            or bands_showing(dataset, (RED, GREEN, BLUE))
            or colour_bands(dataset)
        )
        bands = list(candidates[:3]) if len(candidates) >= 3 else [candidates[0]]
        lacking = [band for band in bands if not 1 <= band <= dataset.count]
        if lacking:
            raise InputError(
                f"has no band {lacking[0]} (it has {dataset.count})",
                where=path,
                fix="correct `bands`",
            )
        if "complex" in dataset.dtypes[bands[0] - 1]:
            raise InputError("holds complex numbers", where=path, fix="use a raster of real values")
        return bands

    def add_labels(self, place: Place, path: str) -> None:
        """Add labels to a place, and a layer for each map of where it differs from them.

        Raises:
            InputError: They can't be read, lie elsewhere, or have no class in common with a map.
        """
        opened = self._labels(place, path)
        reader = SharedReader(opened.classes)
        known = {
            name.casefold(): colour
            for own, _ in reversed(place.maps)
            for name, colour in zip(own.names, own.colours, strict=True)
        }
        colours = [
            known.get(name.casefold(), colour)
            for name, colour in zip(opened.names, opened.colours, strict=True)
        ]
        shape = place.grid.shape
        place.label_source = opened.classes
        place.labels = place.add(ClassLayer("Labels", shape, reader, opened.names, colours))
        for own, layer in place.maps:
            same, scored = _pairs(opened, own, path)
            lacking = [name for label, name in enumerate(opened.names) if not same[label].any()]
            if lacking:
                place.notes.append(
                    f"{own.path} does not know {names_text(lacking)}: not compared with it."
                )
            compared = ComparedClasses(layer.reader, reader, same, scored)
            errors = ClassLayer(
                "Errors" if len(place.maps) == 1 else f"Errors of {layer.label}",
                shape,
                SharedReader(compared),
                ("right", "wrong"),
                (RIGHT_COLOUR, WRONG_COLOUR),
                kind="errors",
            )
            place.errors[place.layers.index(layer)] = place.add(errors)

    def _labels(self, place: Place, path: str) -> OpenLabels:
        """Open labels on the grid of a place."""
        options = self.options
        notes: list[str] = []
        if options.scheme is None:
            reading = FileSchemeOptions(options.attribute, options.label_format)
            of_file = file_scheme([path], [place.first.path], reading)
            scheme, notes = of_file.scheme, list(of_file.notes)
        else:
            scheme = load_scheme(options.scheme)
            scheme = scheme.read_as(options.label_format, options.attribute)
        scheme, line = mask_scheme(scheme.reading(path), [path])
        for note in (*notes, *([] if line is None else [line])):
            self.say(note)
        labels = self.stack.enter_context(
            open_labels(path, place.grid, scheme, name=place.name, unknown="ignore")
        )
        if labels.placement is not None:
            place.notes.append(f"{path} {labels.placement}.")
        names = [label.name for label in scheme.all_labels]
        meant = [{name.casefold()} for name in scheme.class_names]
        meant += [{name.casefold() for name in label.classes} for label in scheme.partial]
        return OpenLabels(labels, names, [label.colour for label in scheme.all_labels], meant)


class _Raster:
    """A raster that is laid on another one, of which nothing is read."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def read(self, window: Window) -> Indices:
        raise NotImplementedError


def _stored_colours(dataset: Any, count: int) -> list[Colour]:
    """Return the colours of a map's palette, grey where it has lost it."""
    try:
        palette = dataset.colormap(1)
    except ValueError:
        palette = {}
    grey = (128, 128, 128, 255)
    colours: list[Colour] = []
    for index in range(count):
        red, green, blue, _ = palette.get(index, grey)
        colours.append((red, green, blue))
    return colours


def _pairs(
    labels: OpenLabels, own: OpenMap, path: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which labels and classes of a map go together, and which are compared.

    Raises:
        InputError: They have no class in common.
    """
    names = [name.casefold() for name in own.names]
    same = np.zeros((256, 256), dtype=bool)
    scored = np.zeros((256, 256), dtype=bool)
    for label, meant in enumerate(labels.meant):
        same[label, : len(names)] = [name in meant for name in names]
        scored[label, : len(names)] = same[label].any()
    if not same.any():
        raise InputError(
            f"its classes ({names_text(labels.names)}) are not those of {own.path} "
            f"({names_text(list(own.names))})",
            where=path,
            fix="give the `scheme` that says what the labels mean",
        )
    return same, scored
