"""The command lines of hrrsi, and what its answers say. Nothing here needs QGIS."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .map_files import refuse_inputs
from .program import ProgramError

# What the plugin itself gives, so that results are where QGIS looks for them.
_OWN = ("--out", "-o", "--resume", "--overwrite", "--dry-run", "--quiet", "-q", "--mosaic")
# and what it would leave behind beside the map, since it does not know these files
_OWN_OF_MAPS = (
    *(*_OWN, "--tiles", "--vector", "--preview", "--confidence"),
    *("--probabilities", "--zones", "--zone-name"),
)
_OWN_OF_SCORES = (*_OWN, "--json", "--report", "--format", "--pred", "--label", "--image")
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
        # a short one may have its value without a space
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if name in own:
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
            *option_words(options),
            *crop,
            *further_words(self.further, _OWN_OF_MAPS),
        ]


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
        return ["eval", *data, *option_words(options), "--overwrite", *further]


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
    values = {output: scores.get(name) for name, output in names.items()}
    scale = {"KAPPA": 1.0}
    return {
        output: value * scale.get(output, 100.0)
        for output, value in values.items()
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
        return ["tile", *self.scenes, *option_words(options), *anew, *further]

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
        return ["train", str(self.dataset), *option_words(options), start, *further]

    def _cut_from(self) -> str:
        states = [_file_state(scene) for scene in self.scenes]
        # of labels and area the content counts: a temporary file has another name each time
        words = replace(self, labels="", aoi="", anew=False).tile_words()
        return json.dumps({"command": words, "scenes": states, "labels": self.labels_state})

    @property
    def is_cut(self) -> bool:
        """Whether the dataset is there, and of these scenes, labels and options.

        Raises:
            ProgramError: There is another one, or one that nothing is known of.
        """
        if self.anew or not (self.dataset / "dataset.yaml").exists():
            return False
        try:
            cut_from = self._record.read_text(encoding="utf-8")
        except OSError:
            cut_from = ""
        if cut_from == self._cut_from():
            return True
        what = "of other scenes, labels or options" if cut_from else "and not of Tile and train"
        raise ProgramError(
            f"{self.dataset}: is there already, {what}; choose another folder, or tick 'Start "
            "over' to replace it and its runs"
        )

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


def option_words(options: Mapping[str, object]) -> list[str]:
    """Return options with a value as words of a command line."""
    words = []
    for name, value in options.items():
        if value is None or value == "":
            continue
        words += [name, f"{value:.15g}" if isinstance(value, float) else str(value)]
    return words
