"""What a map was made from, and by what: for its tags, and to tell whether a run may go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hrrsi import __version__
from hrrsi.errors import OutputExistsError
from hrrsi.files import content_digest
from hrrsi.maps.class_raster import run_of
from hrrsi.maps.outputs import Outputs
from hrrsi.maps.partial_map import partial_map_folder
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.scenes.raster_opening import is_local
from hrrsi.scenes.value_scale import same_values
from hrrsi.scenes.window_source import SceneWindows


@dataclass(frozen=True)
class MapRecord:
    """All that the map of a scene depends on.

    Attributes:
        provenance: What made it, from `run_provenance`: tags of its rasters.
        identity: What its labels and scores depend on, by the names that messages give it.
        min_area: As in `MapOptions`: what its class map depends on beside them.
    """

    provenance: dict[str, str]
    identity: dict[str, Any]
    min_area: float | None

    @property
    def digest(self) -> str:
        """What identifies the run that makes the class map."""
        text = json.dumps([self.identity, self.min_area], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def class_map_provenance(
        self, source: SceneWindows, meta: ModelMeta, options: MapOptions
    ) -> dict[str, str]:
        """Return the tags of the class map: also what was found out about its scene."""
        tags, scale = dict(self.provenance), self.identity["scale"]
        if self.min_area is not None:
            tags["MIN_AREA"] = f"{self.min_area:g}"
        if source.scene.height_model is not None:
            tags["HEIGHT"] = PurePosixPath(source.scene.height_model.path).name
        if options.scale is None:
            if not same_values(source.dtype, meta.dtype):
                tags["ESTIMATED_SCALE"] = f"{scale:.9g}"
            elif scale != meta.scale:
                tags["DECLARED_SCALE"] = f"{scale:.9g}"
        return tags


def run_provenance(engine: Engine, weights: Path, options: MapOptions) -> dict[str, str]:
    """Return what makes the maps of a run: version, network, weights, engine and options."""
    shown = {
        "window": options.window,
        "overlap": options.effective_overlap,
        "tta": options.augmentation if options.augmentation != "none" else None,
        "bands": options.bands,
        "nodata": options.nodata,
        "scale": options.scale,
        "height": None if options.height is None else PurePosixPath(str(options.height)).name,
        "aoi": None if options.aoi is None else Path(options.aoi).name,
        "resample": options.resample or None,
    }
    return {
        "VERSION": __version__,
        "MODEL": engine.meta.model,
        "WEIGHTS": weights.name,
        "WEIGHTS_SHA256": content_digest(weights),
        "ENGINE": f"{engine.name}, precision {engine.precision}",
        "OPTIONS": json.dumps({key: value for key, value in shown.items() if value is not None}),
    }


def map_identity(
    source: SceneWindows,
    scale: float,
    device: str,
    outputs: OutputOptions,
    provenance: dict[str, str],
) -> dict[str, Any]:
    """Return all that labels and scores depend on, by the names that messages give it.

    Args:
        source: The open scene.
        scale: The value that counts as full brightness.
        device: What the engine computes on.
        outputs: What is written.
        provenance: From `run_provenance`.
    """
    scene = source.scene
    heights = scene.height_model
    of_heights = {} if heights is None else {"the height model": _file_states(heights.files)}
    return {
        "scene": str(Path(scene.path).resolve()) if is_local(scene.path) else scene.path,
        "the scene's files": _file_states(scene.dataset.files),
        **of_heights,
        "scale": scale,
        "area of interest": None if source.area is None else source.area.digest,
        "device": device,
        "confidence": outputs.confidence,
        "probabilities": outputs.probabilities,
        **{key.lower().replace("_", " "): value for key, value in provenance.items()},
    }


def is_finished(files: Outputs, record: MapRecord) -> bool:
    """Return whether an earlier run has made this very map.

    Raises:
        OutputExistsError: There is a map that another run made.
    """
    if not files.classes.exists():
        return False
    if run_of(files.classes) != record.digest:
        raise OutputExistsError(
            "exists already, and was made otherwise, or of another scene",
            where=files.classes,
            fix="give `overwrite` instead of `resume`, or another `out`",
        )
    scores = [path for path in (files.confidence, files.probabilities) if path is not None]
    return not partial_map_folder(files.classes).exists() and all(p.exists() for p in scores)


def _file_states(names: Sequence[str]) -> dict[str, list[int]]:
    """Return size and time of change of those files that are on this machine."""
    files = [file for file in map(Path, names) if file.exists()]
    states = [(file, file.stat()) for file in files]
    return {str(file.resolve()): [s.st_size, s.st_mtime_ns] for file, s in states}
