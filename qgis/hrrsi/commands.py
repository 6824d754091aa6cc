"""The command lines of hrrsi, and the files that its runs leave. Nothing here needs QGIS."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .program import ProgramError

# What the plugin itself gives, so that results are where QGIS looks for them.
_OWN = ("--out", "-o", "--resume", "--overwrite", "--dry-run", "--quiet", "-q", "--mosaic")
_OWN_OF_MAPS = (*_OWN, "--tiles", "--vector", "--preview", "--confidence")
_OWN_OF_SCORES = (*_OWN, "--json", "--report", "--format", "--pred", "--label", "--image")
_CLASS_MAP_ENDING = "_classes"  # which names of a map's other files leave out
_WEIGHTS = re.compile(r"weights in (.+\.safetensors)$")
_VALIDATION = re.compile(r"best epoch \d+, validation mIoU (\d+(?:\.\d+)?)")


def further_words(text: str, own: Sequence[str] = _OWN) -> list[str]:
    """Return further options as words, as a shell splits them.

    Args:
        text: What the user has typed.
        own: Options that the plugin gives itself.

    Raises:
        ProgramError: A quotation mark has no partner, or an option is the plugin's.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ProgramError(
            f"further options: {str(error).lower()} in {text!r}; quote as in a shell"
        ) from error
    for word in words:
        if word.partition("=")[0] in own:
            raise ProgramError(
                f"further options: {word} is chosen by the fields above, or by the plugin; "
                "leave it out"
            )
    return words


@dataclass(frozen=True)
class MapOptions:
    """How a scene is mapped: options of ``hrrsi predict`` by their names.

    Attributes:
        scene: The raster, as GDAL opens it.
        weights: A file, or ``default`` or ``light``.
        crs: The scene's, where its file holds none.
        aoi: Polygons outside of which nothing is mapped, or nothing.
        further: Further options, as typed.
    """

    scene: str
    weights: str = "default"
    crs: str = ""
    resample: str = "auto"
    window: int | None = None
    overlap: int | None = None
    threads: int | None = None
    min_area: float | None = None
    aoi: str = ""
    crop: bool = False
    further: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is read."""
        return self.scene, self.weights, self.aoi

    def words(self) -> list[str]:
        """Return the command without the program and outputs.

        Raises:
            ProgramError: The further options can't be used.
        """
        options = {
            "--weights": self.weights if self.weights != "default" else "",
            "--crs": self.crs,
            "--resample": self.resample if self.resample != "auto" else "",
            "--window": self.window,
            "--overlap": self.overlap,
            "--threads": self.threads,
            "--min-area": self.min_area,
            "--aoi": self.aoi,
        }
        crop = ["--crop"] if self.crop else []
        return [
            "predict",
            self.scene,
            *_given(options),
            *crop,
            *further_words(self.further, _OWN_OF_MAPS),
        ]


@dataclass(frozen=True)
class MapFiles:
    """Where the files of a map go, each only if it is asked for.

    hrrsi writes them in a hidden folder beside the first one, and they are moved to their places
    together once all are whole: what was there before stays until then, and what a cancelled run
    leaves is in that folder, where the next run finds it.

    Attributes:
        classes: The class raster, a ``.tif``; it is made in any case.
        confidence: A ``.tif``, or nothing.
        polygons: A vector file, or nothing.
        picture: A ``.png`` or ``.pdf``, or nothing.
        finished: A class raster that is there already, and that polygons are made of, or nothing.
    """

    classes: str = ""
    confidence: str = ""
    polygons: str = ""
    picture: str = ""
    finished: str = ""

    @property
    def folder(self) -> Path:
        """The hidden folder that they are made in."""
        first = Path(next(filter(None, (self.classes, self.polygons, self.confidence))))
        return first.with_name(f".{first.name}.hrrsi")

    @property
    def made(self) -> MapFiles:
        """The files as hrrsi makes them, in the hidden folder."""
        classes = self.folder / (Path(self.classes).name if self.classes else "map_classes.tif")
        if self.finished:
            classes = Path(self.finished)
        stem = classes.stem
        if stem.endswith(_CLASS_MAP_ENDING):
            stem = stem[: -len(_CLASS_MAP_ENDING)]
        return MapFiles(
            str(classes),
            str(self.folder / f"{stem}_confidence.tif") if self.confidence else "",
            *(
                str(self.folder / Path(path).name) if path else ""
                for path in (self.polygons, self.picture)
            ),
        )

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on with: what a run that did not end has left."""
        made = Path(self.made.classes)
        unfinished = made.with_name(f".{made.name}.unfinished")
        return bool(self.finished) or made.exists() or unfinished.is_dir()

    def words(self) -> list[str]:
        """Return the words that ask for them, and to go on with what is there."""
        made = self.made
        options = {"--out": made.classes, "--vector": made.polygons, "--preview": made.picture}
        confidence = ["--confidence", "uint8"] if made.confidence else []
        return [*_given(options), *confidence, *(["--resume"] if self.is_begun else [])]

    def prepare(self, inputs: Iterable[str] = (), *, start_over: bool = False) -> None:
        """Make the hidden folder.

        Args:
            inputs: What is read, as GDAL opens it.
            start_over: Whether what an earlier run has left in the folder goes.

        Raises:
            ProgramError: It can't be made, or a file would replace what is no earlier result.
        """
        refuse_inputs(self.paths, inputs)
        if not self.is_begun:
            self._refuse_companions()
        if start_over:
            self.discard()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProgramError(
                f"{self.folder.parent}: can't be written to ({error.strerror}); choose another "
                "folder"
            ) from error

    def _refuse_companions(self) -> None:
        """Raise where a file beside a result is there already, without that result."""
        own = {Path(path) for path in self.paths if path}
        for target in own:
            for _, place in _companions(target, target):
                if place.exists() and not any(
                    path.exists() for path in own if _goes_with(path, place)
                ):
                    raise ProgramError(
                        f"{place}: is there already, and belongs to something else; choose another "
                        f"name than {target.name}"
                    )

    def discard(self) -> None:
        """Remove the hidden folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def move_into_place(self) -> None:
        """Move what was asked for to its place, with the files beside it, and remove the rest.

        Raises:
            ProgramError: A file can't be written.
        """
        for source, target in self.moves:
            for file, place in _companions(Path(source), Path(target)):
                if file.exists():
                    _copy_whole(file, place)
            _copy_whole(Path(source), Path(target))
        self.discard()

    @property
    def moves(self) -> list[tuple[str, str]]:
        """Each file that is asked for, as hrrsi makes it, and its place."""
        return [pair for pair in zip(self.made.paths, self.paths) if pair[1]]

    @property
    def paths(self) -> tuple[str, str, str, str]:
        """All of them, what the class raster is made with before it, what is made of it after."""
        return self.confidence, self.classes, self.polygons, self.picture


def refuse_inputs(outputs: Iterable[str], inputs: Iterable[str]) -> None:
    """Raise where an output would replace what is read, or another output.

    Args:
        outputs: Files, and nothing for those that are not asked for.
        inputs: What is read, as GDAL opens it: ``areas.gpkg|layername=parcels``.

    Raises:
        ProgramError: One would.
    """
    files = {os.path.realpath(name.split("|")[0]) for name in inputs if name}
    files |= {os.path.realpath(part) for name in inputs for part in name.split(":")[1:2] if part}
    seen = set()
    for output in filter(None, outputs):
        path = os.path.realpath(output)
        if path in files:
            raise ProgramError(f"{output}: is read, and would be replaced; choose another output")
        if path in seen:
            raise ProgramError(f"{output}: is named for two outputs; choose another name for one")
        seen.add(path)


def _companions(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return what may be made beside a file, e.g. ``NAME.qml`` or a shapefile's parts."""
    suffix = source.suffix.lower()
    endings = {".tif": (".qml",), ".shp": (".shx", ".dbf", ".prj", ".cpg", ".qml")}.get(
        suffix, (".qml",) if suffix in (".tiff", ".geojson", ".fgb") else ()
    )
    pairs = [(source.with_suffix(end), target.with_suffix(end)) for end in endings]
    if suffix in (".tif", ".tiff"):
        sidecars = (path.with_name(f"{path.name}.aux.xml") for path in (source, target))
        pairs.append((next(sidecars), next(sidecars)))
    return pairs


def _goes_with(path: Path, companion: Path) -> bool:
    return companion in [place for _, place in _companions(path, path)]


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a file under its final name at once; a style may be wanted twice, so it stays."""
    draft = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        try:
            os.link(source, draft)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, draft)
        os.replace(draft, target)
        draft.unlink(missing_ok=True)  # where both were links to one file, it is still there
        if target.suffix.lower() == ".gpkg":  # QGIS leaves a journal while it shows the old one
            for ending in ("-wal", "-shm"):
                target.with_name(target.name + ending).unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ProgramError(
            f"{target}: can't be written ({error.strerror}); the map is whole in {source.parent}"
        ) from error


@dataclass(frozen=True)
class Scoring:
    """What is scored against which labels: options of ``hrrsi eval`` by their names.

    Attributes:
        pred: A map; nothing where a tiled dataset is scored.
        label: Polygons (``areas.gpkg|layername=parcels``) or a raster.
        scheme: What labels mean: a name, or a file.
        image: The scene, for the report.
        dataset: The folder of a tiled dataset, instead of a map and labels.
        weights: Those that are scored on it.
        report: An ``.html``.
        json: A ``.json`` with all figures.
    """

    pred: str = ""
    label: str = ""
    scheme: str = ""
    attribute: str = ""
    aoi: str = ""
    image: str = ""
    dataset: str = ""
    weights: str = "default"
    protocol: str = "all"
    report: str = ""
    json: str = ""
    further: str = ""

    def words(self) -> list[str]:
        """Return the command without the program.

        Raises:
            ProgramError: The further options can't be used, or an output is an input.
        """
        options = {
            "--pred": self.pred,
            "--label": self.label,
            "--scheme": self.scheme,
            "--attribute": self.attribute,
            "--aoi": self.aoi,
            "--image": self.image if self.report else "",
            "--weights": self.weights if self.dataset and self.weights != "default" else "",
            "--protocol": self.protocol if self.protocol != "all" else "",
            "--report": self.report,
            "--json": self.json,
        }
        data = [self.dataset] if self.dataset else []
        inputs = (self.pred, self.label, self.scheme, self.aoi, self.image, self.weights)
        refuse_inputs((self.report, self.json), inputs)
        further = further_words(self.further, _OWN_OF_SCORES)
        return ["eval", *data, *_given(options), "--overwrite", *further]


def map_info_words(path: str) -> list[str]:
    """Return the command that says which classes a map holds, without the program."""
    return ["info", path, "--format", "json"]


def map_classes(path: str, info: Iterable[str]) -> list[str]:
    """Return the classes of a map.

    Args:
        path: The map.
        info: What ``hrrsi info --format json`` says of it.

    Raises:
        ProgramError: It says no classes.
    """
    try:
        classes = json.loads("\n".join(info)).get("classes")
    except (ValueError, AttributeError):
        classes = None
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ProgramError(
            f"{path}: is no class raster of hrrsi, so nobody knows its classes; "
            "choose a scheme that names them"
        )
    return classes


def label_indices(classes: Sequence[str], named: Mapping[str, int]) -> list[int]:
    """Return the value that each class of a map has in a raster of labels.

    Args:
        classes: The map's, in the order of their indices.
        named: The values of the labels' classes, where these have names; else they are the map's.

    Raises:
        ProgramError: None of the names is one of the map's.
    """
    if not named:
        return list(range(len(classes)))
    values = {name.casefold(): value for name, value in named.items()}
    if not any(name.casefold() in values for name in classes):
        raise ProgramError(
            f"labels: their classes are {', '.join(named)}, those of the map "
            f"{', '.join(classes)}; choose a scheme that says what is what"
        )
    unused = iter(sorted(set(range(254)) - set(values.values()), reverse=True))
    return [values[n.casefold()] if n.casefold() in values else next(unused) for n in classes]


def scheme_text(
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    label_format: str,
    indices: Sequence[int] | None = None,
) -> str:
    """Return a scheme of a map's own classes, which labels then name or number.

    Args:
        classes: Their names, in the order of their indices.
        colours: Their colours.
        label_format: What labels hold: ``polygons``, ``indices`` or ``colours``.
        indices: Their values in labels, by default their places.
    """
    values = range(len(classes)) if indices is None else indices
    listed = [
        {"name": name, "colour": list(colour), "index": index}
        for name, colour, index in zip(classes, colours, values)
    ]
    scheme = {"name": "map", "classes": listed, "label_format": label_format}
    return json.dumps(scheme, indent=1, ensure_ascii=False) + "\n"  # which is YAML, too


def overall_scores(document: str) -> dict[str, float]:
    """Return the scores of an evaluation in percent, by the names of QGIS' outputs.

    Args:
        document: The JSON of ``hrrsi eval --json``.
    """
    scores = json.loads(document)["scores"]
    names = {"OA": "OVERALL_ACCURACY", "mIoU": "MIOU", "mF1": "MF1", "kappa": "KAPPA"}
    given = {output: scores.get(name) for name, output in names.items()}
    scale = {"KAPPA": 1.0}
    return {
        output: value * scale.get(output, 100.0)
        for output, value in given.items()
        if value is not None
    }


@dataclass(frozen=True)
class Training:
    """A dataset that is cut and a network that is trained on it, in one folder.

    Attributes:
        scenes: Rasters.
        labels: Polygons (``areas.gpkg|layername=parcels``) or a raster.
        attribute: The polygons' attribute that holds the class, or nothing.
        folder: Holds ``dataset``, ``runs``, and what the dataset was cut from.
        labels_state: What tells the content of labels and area from others.
        init: Weights to go on from: a file, or ``default`` or ``light``.
        further_tile: Further options of ``hrrsi tile``, as typed.
        further_train: Those of ``hrrsi train``.
        anew: Whether a dataset and a run that are there are replaced.
    """

    scenes: tuple[str, ...]
    labels: str
    folder: str
    labels_state: str
    attribute: str = ""
    init: str = "default"
    size: int = 512
    split: str = "70,15,15"
    background: str = ""
    crs: str = ""
    aoi: str = ""
    epochs: int | None = None
    batch: int | None = None
    patience: int | None = None
    further_tile: str = ""
    further_train: str = ""
    anew: bool = False

    @property
    def dataset(self) -> Path:
        """The folder of the tiled dataset."""
        return Path(self.folder) / "dataset"

    @property
    def runs(self) -> Path:
        """The folder of the run's folder."""
        return Path(self.folder) / "runs"

    def tile_words(self) -> list[str]:
        """Return the command that cuts the dataset, without the program.

        Raises:
            ProgramError: The further options can't be used.
        """
        options = {
            "--labels": self.labels,
            "--attribute": self.attribute,
            "--split-blocks": self.split,
            "--size": self.size if self.size != 512 else None,
            "--background": self.background,
            "--crs": self.crs,
            "--aoi": self.aoi,
            "--out": str(self.dataset),
        }
        further = further_words(self.further_tile)
        anew = ["--overwrite"] if self.anew else []
        return ["tile", *self.scenes, *_given(options), *anew, *further]

    def train_words(self) -> list[str]:
        """Return the command that trains, or goes on with a run that is there.

        Raises:
            ProgramError: The further options can't be used.
        """
        options = {
            "--init": self.init,
            "--epochs": self.epochs,
            "--batch": self.batch,
            "--patience": self.patience,
            "--out": str(self.runs),
        }
        further = further_words(self.further_train)
        start = "--overwrite" if self.anew else "--resume"
        return ["train", str(self.dataset), *_given(options), start, *further]

    def _cut_from(self) -> str:
        states = [_file_state(scene) for scene in self.scenes]
        # of labels and area the content counts: a temporary file has another name each time
        words = replace(self, labels="", aoi="", anew=False).tile_words()
        return json.dumps({"command": words, "scenes": states, "labels": self.labels_state})

    @property
    def is_cut(self) -> bool:
        """Whether the dataset is there, and of these scenes, labels and options.

        Raises:
            ProgramError: There is another one.
        """
        if self.anew or not (self.dataset / "dataset.yaml").exists():
            return False
        try:
            is_same = self._record.read_text(encoding="utf-8") == self._cut_from()
        except OSError:
            is_same = False
        if not is_same:
            raise ProgramError(
                f"{self.dataset}: is there already, of other scenes, labels or options; choose "
                "another folder, or tick 'Start over' to replace it and its runs"
            )
        return True

    @property
    def _record(self) -> Path:
        return Path(self.folder) / "cut_from.json"

    def note_cut(self) -> None:
        """Keep what the dataset was cut from, so that the next run need not cut it again."""
        self._record.write_text(self._cut_from(), encoding="utf-8")


def trained(lines: Iterable[str]) -> tuple[str, float | None]:
    """Return the weights that a training has left, and their validation mIoU in percent.

    Args:
        lines: The standard output of ``hrrsi train``.

    Raises:
        ProgramError: It names none.
    """
    for line in reversed(list(lines)):
        weights, score = _WEIGHTS.search(line), _VALIDATION.search(line)
        if weights is not None:
            return weights[1], None if score is None else float(score[1])
    raise ProgramError("hrrsi train has named no weights; see the log above")


def _file_state(path: str) -> list[object]:
    try:
        state = os.stat(path)
    except OSError:  # what GDAL alone opens
        return [path]
    return [os.path.realpath(path), state.st_size, state.st_mtime_ns]


def _given(options: Mapping[str, object]) -> list[str]:
    """Return options with a value as words of a command line."""
    words = []
    for name, value in options.items():
        if value is None or value == "":
            continue
        words += [name, f"{value:g}" if isinstance(value, float) else str(value)]
    return words
