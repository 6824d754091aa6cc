"""Opens what the viewer shows: maps of any tool, the scenes below them, labels, confidences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrrsi.errors import InputError, MissingInputError
from hrrsi.evaluation.map_classes import open_map
from hrrsi.evaluation.options import MapFormat
from hrrsi.files import content_digest
from hrrsi.labels.file_scheme import FileSchemeOptions, file_scheme
from hrrsi.labels.label_reading import mask_scheme, open_labels
from hrrsi.labels.laid_classes import GridClasses, LaidMap, has_place, on_grid, placement
from hrrsi.labels.merged_classes import merged_classes
from hrrsi.labels.scheme import load_scheme
from hrrsi.maps.rasters import read_class_raster
from hrrsi.maps.styles import files_beside, is_as_written, scene_of
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
    require_bands,
)
from hrrsi.scenes.georeference import has_transform
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES, is_local, open_raster, opened_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.scene_rasters import TAG
from hrrsi.scenes.value_scale import scene_sample
from hrrsi.viewer import ViewOptions
from hrrsi.viewer.layers import (
    RIGHT_COLOUR,
    WRONG_COLOUR,
    ClassLayer,
    ComparedClasses,
    SharedReader,
    StoredClasses,
    level_shape,
    stored_colours,
)
from hrrsi.viewer.map_scene import UnreadRaster, map_scene
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
        viewed_map = opener.map(path)
        for place in places:
            classes = _classes_on(viewed_map, place)
            if classes is not None:
                opener.add_map(place, viewed_map, classes)
                break
        else:
            places.append(opener.place(viewed_map))
    for place in places:
        place.take_names()
    _on_some(places, scene, lambda place: opener.add_scene(place, scene), say)
    if labels is not None:
        _on_some(places, labels, lambda place: opener.add_labels(place, labels), say)
    for place in places:
        if not any(isinstance(layer, SceneLayer) for layer in place.layers):
            place.notes.append("The scene is not known, so the map is shown alone.")
    return places


def _on_some(
    places: Sequence[Place],
    path: str | None,
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
            if path is None or len(places) == 1:
                raise
            failures.append((place, error))
    if failures and len(failures) == len(places):
        raise failures[0][1]
    for place, failure in failures:
        say(f"note: {place.first.path}: shown without {path}: {failure.what}")


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
        # hidden are those that are not whole, and what other programs keep
        inside = [
            str(p)
            for p in rasters
            if not any(part.startswith(".") for part in p.relative_to(local).parts)
            and p.is_file()
            and read_class_raster(p) is not None
        ]
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


def _classes_on(viewed_map: OpenMap, place: Place) -> GridClasses | None:
    """Return what reads a map on the grid of a place, None where it is of another place."""
    raster = viewed_map.classes.scene
    if not (has_place(raster) and has_place(place.grid)):
        is_same = viewed_map.origin == place.first.origin and raster.shape == place.grid.shape
        return viewed_map.classes if is_same else None
    try:
        classes = on_grid(viewed_map.classes, place.grid, "map")
    except InputError:
        return None
    if isinstance(classes, LaidMap) and classes.covered_share(*place.grid.shape) < _LEAST_COVERED:
        return None
    return classes


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
                fix=f"name the class map, NAME{MAP_ENDING}.tif",
            )
        content = read_class_raster(path)
        if content is None:
            return self._other_map(path)
        scene = Scene(path, dataset, (1,))
        colours = stored_colours(dataset, len(content.classes))
        as_written = is_as_written(Path(path)) if is_local(path) else None
        if as_written is False:
            self.say(f"note: {path}: was changed since it was written, so it is counted anew")
        return OpenMap(
            path,
            StoredClasses(scene, len(content.classes)),
            content.classes,
            colours,
            content,
            self._scene_path(path, scene),
            as_written is True,
            self.scene or (scene_of(Path(path)) if is_local(path) else None) or path,
        )

    def _other_map(self, path: str) -> OpenMap:
        """Open a map of another tool's."""
        try:
            map_format: MapFormat | None = None
            if self.options.scheme is not None:
                scheme = load_scheme(self.options.scheme)
            else:
                of_file = file_scheme([path], [path])
                scheme = of_file.scheme
                # whose colours may be those of a style, other than the palette's
                map_format = "colours" if scheme.label_format == "colours" else "indices"
                for note in of_file.notes:
                    self.say(note)
            merged = merged_classes(scheme)
            classes = self.stack.enter_context(
                open_map(path, scheme, merged, name=Path(path).stem, map_format=map_format)
            )
        except InputError as error:
            if error.where is None or str(error.where) != path or "cannot be read" in error.what:
                raise
            raise InputError(
                f"is no map of classes: {error.what.removeprefix('is no map of classes: ')}",
                where=path,
                fix="name a raster of classes, and imagery as `scene`",
            ) from error
        scene_path = self._scene_path(path, classes.scene)
        return OpenMap(
            path, classes, merged.names, merged.colours, None, scene_path, False, scene_path
        )

    def _scene_path(self, path: str, raster: Scene) -> str | None:
        """Return the scene of all maps, else that of a map."""
        return self.scene or map_scene(path, raster, self.stack, self.say)

    def place(self, viewed_map: OpenMap) -> Place:
        """Return a place with a map on its own grid."""
        place = Place("", viewed_map.classes.scene, viewed_map)
        self.add_map(place, viewed_map, viewed_map.classes)
        return place

    def add_map(self, place: Place, viewed_map: OpenMap, classes: GridClasses) -> None:
        """Add a map to a place, with its confidences where they lie beside it.

        Args:
            place: The place.
            viewed_map: The map.
            classes: Reads it on the place's grid.
        """
        viewed_map.is_on_grid = classes is viewed_map.classes
        is_stored_so = viewed_map.is_as_written and viewed_map.is_on_grid
        layer = ClassLayer(
            "Map",
            place.grid.shape,
            SharedReader(classes),
            viewed_map.names,
            viewed_map.colours,
            self._overviews(viewed_map) if is_stored_so else {},
        )
        place.maps.append((viewed_map, layer))
        number = place.add(layer)
        if isinstance(classes, LaidMap):
            words = placement(viewed_map.classes.scene, place.grid)
            words = words.replace("its image", Path(place.first.path).name)
            self._tell(
                place,
                f"{Path(viewed_map.path).name} {words}: shown and counted on that grid, by nearest "
                "pixel.",
            )
        scores = self._scores(viewed_map) if viewed_map.is_on_grid else None
        if scores is not None:
            place.scores[number] = place.add(scores)

    def _overviews(self, viewed_map: OpenMap) -> dict[int, SharedReader]:
        """Return what reads the overviews of a map that is as hrrsi wrote it, by level."""
        readers = {}
        whole = viewed_map.classes.scene
        # of narrow maps GDAL's factors, which are those of columns, don't tell levels apart
        for level in range(1, len(whole.dataset.overviews(1)) + 1):
            dataset = self.stack.enter_context(
                opened_raster(viewed_map.path, overview_level=level - 1)
            )
            overview = Scene(viewed_map.path, dataset, (1,))
            if overview.shape != level_shape(whole.shape, level):
                return {}
            readers[level] = SharedReader(StoredClasses(overview, len(viewed_map.names)))
        return readers

    def _scores(self, viewed_map: OpenMap) -> ScoreLayer | None:
        """Return the confidences beside a map, where they are of the same run."""
        file = Path(viewed_map.path).with_name(f"{viewed_map.name}_confidence.tif")
        content = viewed_map.content
        if content is None or not is_local(viewed_map.path) or not file.is_file():
            return None
        dataset = self.stack.enter_context(open_raster(file))
        tags = {key.removeprefix(TAG): value for key, value in dataset.tags().items()}
        is_of_run = all(tags.get(key) == content.provenance.get(key) for key in _SAME_RUN)
        raster = viewed_map.classes.scene.dataset
        is_on_map = dataset.shape == raster.shape and dataset.transform == raster.transform
        if viewed_map.is_as_written:  # options are alike for any scene
            own = files_beside(Path(viewed_map.path)).get(file.name)
            is_of_run = is_of_run and own == content_digest(file)
        if tags.get("CONTENT") != "confidence" or not (is_of_run and is_on_map):
            self.say(f"note: {file}: left out, for it is of another run than {viewed_map.path}")
            return None
        return ScoreLayer("Confidence", dataset, str(file))

    def _tell(self, place: Place, note: str) -> None:
        """Say a note of a place, on the page too."""
        place.notes.append(note)
        self.say(f"note: {place.first.path}: {note.removesuffix('.')}")

    def add_scene(self, place: Place, scene_path: str | None) -> None:
        """Put the scene below the maps of a place, where it is known.

        Raises:
            InputError: It can't be read, or lies elsewhere.
        """
        path = scene_path or next((m.scene_path for m, _ in place.maps if m.scene_path), None)
        if path is None:
            return
        dataset = self.stack.enter_context(open_imagery(path, 3))
        bands = self._shown_bands(place, dataset, path)
        scene = Scene(path, dataset, tuple(bands))
        has_other_grid = isinstance(on_grid(UnreadRaster(scene), place.grid, "map"), LaidMap)
        if has_other_grid and not all(has_transform(own) for own in (dataset, place.grid.dataset)):
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
            grid=place.grid.dataset if has_other_grid else None,
            sample=None if is_picture else scene_sample(scene).values,
            nodata=nodata if isinstance(nodata, int | float) else None,
            masked=not (alpha_bands(dataset) and alpha_is_imagery(dataset)),
        )
        place.add(layer)
        if has_other_grid:
            words = placement(scene, place.grid).replace("its image", "the map")
            self._tell(place, f"The scene {words}: shown on the map's grid.")

    def _shown_bands(self, place: Place, dataset: Any, path: str) -> list[int]:
        """Return the bands that are shown: those asked for, of the map, or red, green and blue."""
        of_map = place.first.options.get("bands")
        numbers = of_map if isinstance(of_map, list) else [None]
        if not all(isinstance(n, int) and 1 <= n <= dataset.count for n in numbers):
            of_map = None  # of a scene of more bands, or not as hrrsi wrote it
        candidates = (
            self.options.bands
            or of_map
            or bands_showing(dataset, (RED, GREEN, BLUE))
            or colour_bands(dataset)
        )
        bands = list(candidates[:3]) if len(candidates) >= 3 else [candidates[0]]
        require_bands(path, dataset, bands)
        return bands

    def add_labels(self, place: Place, path: str) -> None:
        """Add labels to a place, and a layer for each map of where it differs from them.

        Raises:
            InputError: They can't be read, lie elsewhere, or have no class in common with a map.
        """
        labels = self._labels(place, path)
        reader = SharedReader(labels.classes)
        map_colours = {
            name.casefold(): colour
            for viewed_map, _ in reversed(place.maps)
            for name, colour in zip(viewed_map.names, viewed_map.colours, strict=True)
        }
        colours = [
            map_colours.get(name.casefold(), colour)
            for name, colour in zip(labels.names, labels.colours, strict=True)
        ]
        shape = place.grid.shape
        place.label_source = labels.classes
        place.labels = place.add(ClassLayer("Labels", shape, reader, labels.names, colours))
        for viewed_map, layer in place.maps:
            are_same, are_scored = labels.pairs_with(viewed_map, path)
            absent = [name for n, name in enumerate(labels.names) if not are_same[n].any()]
            if absent:
                self._tell(
                    place,
                    f"{viewed_map.path} does not know {names_text(absent)}: not compared with it.",
                )
            comparison = ComparedClasses(layer.reader, reader, are_same, are_scored)
            errors = ClassLayer(
                "Errors" if len(place.maps) == 1 else f"Errors of {layer.label}",
                shape,
                SharedReader(comparison),
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
            self._tell(place, f"{path} {labels.placement}.")
        names = [label.name for label in scheme.all_labels]
        class_names = [{name.casefold()} for name in scheme.class_names]
        class_names += [{name.casefold() for name in label.classes} for label in scheme.partial]
        colours = [label.colour for label in scheme.all_labels]
        return OpenLabels(labels, names, colours, class_names)
