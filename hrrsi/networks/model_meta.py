"""What weights say of themselves: the description that travels in a weights file, and in lines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from hrrsi.errors import OptionError, WeightsError
from hrrsi.labels.scheme import built_in_meanings
from hrrsi.networks.architecture import LogitAlignment, parsed_model
from hrrsi.quantities import counted, share_text, time_text
from hrrsi.scenes.input_bands import InputBands
from hrrsi.scenes.likeness import Likeness

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import TypeAdapter

FORMAT = "1"
_FORMAT_KEY = "hrrsi_format"
_OPTIONAL = (
    *("height", "resolutions", "purpose", "likeness", "band_meanings", "pruned"),
    *("window", "overlap", "quantized"),
)

Floats = npt.NDArray[np.float32]
_OF_TEACHERS = ("distillation", "temperature", "features")
_SEED = "seed"
_COUNTS = ("devices", "nodes")  # of which a single one is not worth a word


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ModelMeta(Mapping[str, Any]):
    """What weights say of themselves, as attributes and as a mapping of the same names.

    Attributes:
        model: Name of the network, as `hrrsi.networks.architecture.parsed_model` understands it.
        classes: Class names in the order of the logits.
        colours: Class colours (red, green, blue, 0 to 255), likewise.
        bands: Meaning of the input bands, 1-based in the scenes trained on.
        height: Whether one more band comes last: heights, from a raster of their own.
        dtype: NumPy name of the type of the scenes trained on.
        scale: The value that counts as 1: bands are divided by it, then normalised.
        mean: Mean of each band after that division.
        std: Standard deviation of each band, likewise.
        resolution: Ground sampling distance in metres per pixel, or None where it is unknown.
        scheme: Name of the label scheme.
        training: How the weights were trained: data, recipe, seed, images seen.
        scores: Scores and their protocol; None stands for one that is not defined.
        licence: Terms of the weights and of the data behind them.
        resolutions: The lowest and the highest number of metres per pixel that the network saw in
            training, augmentation included; None where it is not known.
        purpose: What the weights are meant for, in a sentence's end such as ``buildings in
            Europe``, or None.
        likeness: What patches of the training look like, by which scenes that are unlike all of
            them are known (`hrrsi.scenes.likeness.Likeness.from_plain`), or None.
        band_meanings: What each of `bands` shows, as `hrrsi.scenes.bands.band_meanings` calls it,
            where training knew it; None: `input_meanings` may know it by the scheme.
        pruned: What was cut out of the network of that name, a mapping for each time, the first
            one first: `from` (the weights it was cut out of), `macs` (the share of their
            multiply-accumulates that was kept), `criterion`, `data`, `patches`, and `channels`
            (before and after, of each part that lost some); None: nothing.
        window: Rows and columns of the only windows that an exported network takes; None: any.
        overlap: Pixels that its windows should share, or None.
        logit_alignment: Where the network's logits lie on its input
            (`hrrsi.networks.architecture.LogitGrid`).
        quantized: How its numbers were rounded, and what that cost
            (`hrrsi.deployment.quantization`), or None.

    Of those from `resolutions` on, and of `height`, the mapping has no name where there is nothing
    to say.

    Raises:
        ValueError: `resolutions` are not two positive numbers in their order, `likeness` is none,
            classes and colours, or means and deviations, are not as many, or a number is none or
            divides by 0.
    """

    model: str
    classes: list[str]
    colours: list[tuple[int, int, int]]
    bands: list[int]
    height: bool = False
    dtype: str
    scale: float
    mean: list[float]
    std: list[float]
    resolution: float | None
    scheme: str
    training: dict[str, Any]
    scores: dict[str, Any]
    licence: str
    resolutions: tuple[float, float] | None = None
    purpose: str | None = None
    likeness: dict[str, Any] | None = None
    band_meanings: list[str | None] | None = None
    pruned: list[dict[str, Any]] | None = None
    window: int | None = None
    overlap: int | None = None
    quantized: dict[str, Any] | None = None
    logit_alignment: LogitAlignment = "corners"

    def __post_init__(self) -> None:
        if self.resolutions is not None and not (
            0 < self.resolutions[0] <= self.resolutions[1] < math.inf
        ):
            raise ValueError(f"{self.resolutions} is no range of resolutions")
        if len(self.colours) != len(self.classes) or not self.classes:
            raise ValueError(f"{len(self.colours)} colours for {len(self.classes)} classes")
        if not len(self.mean) == len(self.std) > self.height:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations")
        if not all(math.isfinite(v) for v in (self.scale, *self.mean, *self.std)):
            raise ValueError("scale, mean or std is no number")
        if self.scale == 0 or 0 in self.std:
            raise ValueError("scale or std is 0")
        if self.likeness is not None:
            Likeness.from_plain(self.likeness)
        for cut in self.pruned or ():
            if not 0 < float(cut.get("macs", 0)) <= 1:
                raise ValueError("pruned to no share")

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> Self:
        """Return what the metadata of a ``.safetensors`` says.

        Args:
            metadata: A JSON text for each name.
            path: The file, for messages.

        Raises:
            WeightsError: Not written by hrrsi, damaged, or of a model unknown here.
        """
        from pydantic import ValidationError

        if metadata.get(_FORMAT_KEY) != FORMAT:
            raise WeightsError(
                "does not say which network it holds (not written by hrrsi)",
                where=path,
                fix="use a file that `hrrsi train` wrote, or a published .pth checkpoint",
            )
        try:
            values = {k: metadata_value(v) for k, v in metadata.items() if k != _FORMAT_KEY}
            meta: Self = _validation(cls).validate_python(values)
        except (ValidationError, ValueError) as error:
            raise WeightsError(
                "its description is damaged", where=path, fix="copy the file again"
            ) from error
        try:
            parsed_model(meta.model)
        except OptionError as error:
            raise WeightsError(
                f"holds the model {meta.model!r}, which this version does not know",
                where=path,
                fix="update hrrsi",
            ) from error
        return meta

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata that `from_metadata` reads.

        Raises:
            ValueError: There is a NaN or an infinity, which JSON can't hold; a score that is not
                defined is None.
        """
        return {
            _FORMAT_KEY: FORMAT,
            **{key: json.dumps(value, allow_nan=False) for key, value in self.items()},
        }

    @property
    def resolutions_text(self) -> str:
        """Metres per pixel of the training in words, e.g. ``0.25 to 0.8 m``; empty if unknown."""
        if self.resolutions is not None:
            low, high = (f"{length:.3g}" for length in self.resolutions)
            return f"{low} m" if low == high else f"{low} to {high} m"
        return "" if self.resolution is None else f"{self.resolution:.3g} m"

    @property
    def background(self) -> str:
        """What the weights were trained on and what they are meant for, in words."""
        places = self.training.get("places") or self.training.get("data")
        place_names = places if isinstance(places, str) else ", ".join(map(str, places or ()))
        parts = [
            f"trained on {place_names}" if place_names else "",
            f"at {self.resolutions_text} a pixel" if self.resolutions_text else "",
            f"for {self.purpose}" if self.purpose else "",
        ]
        return "; ".join(part for part in parts if part)

    @property
    def macs_share(self) -> float:
        """Share of the multiply-accumulates of the network of that name that it has, 0 to 1."""
        return math.prod(float(cut["macs"]) for cut in self.pruned or ())

    @property
    def network_text(self) -> str:
        """The network in words: its name, and how much of it pruning has left."""
        return f"{self.model} pruned to {self.macs_share:.0%}" if self.pruned else self.model

    @property
    def input_meanings(self) -> tuple[str | None, ...] | None:
        """What each of `bands` shows, by the weights' own word, else their built-in scheme's."""
        if self.band_meanings is not None:
            return tuple(self.band_meanings)
        return built_in_meanings(self.scheme, tuple(self.bands))

    @property
    def input_bands(self) -> InputBands:
        """The bands that the network sees."""
        return InputBands(tuple(self.bands), self.input_meanings, self.height)

    @property
    def band_count(self) -> int:
        """Number of bands that the network sees, the heights included."""
        return len(self.mean)

    @property
    def image_bands(self) -> int:
        """Number of bands of scenes that the network sees, without the heights."""
        return self.band_count - self.height

    def normalisation(self, scale: float | None = None) -> tuple[Floats, Floats]:
        """Return gain and offset, (1, bands, 1, 1), of pixels: pixels * gain + offset.

        Heights mean the same in all scenes, so what they are divided by is what it was in training.

        Args:
            scale: The scene's value that counts as full brightness; None: that of training.
        """
        scales = [self.scale if scale is None else scale] * self.band_count
        if self.height:
            scales[-1] = self.scale
        return normalisation(scales, self.mean, self.std)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def _keys(self) -> list[str]:
        names = [field.name for field in dataclasses.fields(self)]
        absent = [name for name in _OPTIONAL if not getattr(self, name)]
        return [name for name in names if name not in absent]


def normalisation(
    scale: float | Sequence[float], mean: Sequence[float], std: Sequence[float]
) -> tuple[Floats, Floats]:
    """Return the gain and the offset, (1, bands, 1, 1), that pixels are normalised with.

    Args:
        scale: The raster's value that counts as 1, one for all bands or one for each.
        mean: Mean of each band after that division.
        std: Standard deviation of each band, likewise.
    """
    deviation = np.asarray(std, dtype=np.float64).reshape(1, -1, 1, 1)
    average = np.asarray(mean, dtype=np.float64).reshape(1, -1, 1, 1)
    full = np.asarray(scale, dtype=np.float64).reshape(1, -1, 1, 1)
    return (1 / (full * deviation)).astype(np.float32), (-average / deviation).astype(np.float32)


def metadata_value(text: str) -> Any:
    """Return a value of a file's metadata: None for the NaN of older files, which is no JSON.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@cache
def _validation(kind: type[ModelMeta]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def training_lines(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a label and a text for each side of a training: data, start, settings, what was kept.

    What is switched off (None, False, 0) is left out.

    Args:
        training: What weights say of it (`hrrsi.networks.model_meta.ModelMeta`), or options
            of a run.
    """
    left = dict(training)
    data = [left.pop(key, None) for key in ("data", "scenes", "patches", "patch_size")]
    if "places" in left:
        data[1] = None  # of these, scenes are some alone
    lines = [
        ("trained on", _data_text(*data)),
        (
            "start",
            _start_text(
                *(left.pop(k, None) for k in ("init", "encoder_weights", "freeze_encoder"))
            ),
        ),
    ]
    teachers = left.pop("teachers", None)
    taught = [_setting_text(key, left.pop(key)) for key in _OF_TEACHERS if key in left]
    if teachers:
        names = ", ".join(t if isinstance(t, str) else t["name"] for t in teachers)
        lines.append(("taught by", f"{names}; {', '.join(filter(None, taught))}"))
    if "epoch" in left:
        epoch, epochs, image_count = (
            left.pop(key, None) for key in ("epoch", "epochs", "images_seen")
        )
        of_all = f" of {epochs}" if epochs else ""
        images = f", {counted(image_count, 'image')} seen" if image_count else ""
        lines.append(("kept", f"epoch {epoch}{of_all}{images}"))
    # of weights written before these were left to the run's folder
    seconds, hardware = left.pop("seconds", None), left.pop("hardware", None)
    if seconds is not None and hardware is not None:
        lines.append(("took", f"{time_text(seconds)} on {hardware_text(hardware)}"))
    settings = (_setting_text(key, value) for key, value in left.items())
    lines.append(("settings", ", ".join(filter(None, settings))))
    return [(label, text) for label, text in lines if text]


def pruning_lines(pruned: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str]]:
    """Return a line for each time that something was cut out of a network."""
    return [
        (
            "pruned",
            f"to {cut['macs']:.1%} of the multiply-accumulates of {cut.get('from', 'others')}: "
            f"fewer channels in {_lost_text(cut.get('channels', {}))}, chosen by "
            f"{cut.get('criterion', 'an unknown criterion')} on "
            f"{cut.get('patches', 0):,} patches of {cut.get('data', '?')}",
        )
        for cut in pruned or ()
    ]


def _lost_text(channels: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{part} ({before} -> {after})" for part, (before, after) in channels.items())


def score_lines(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a line for each set of scores: figures and classes' IoU in percent, then protocol."""
    lines = []
    for name, values in scores.items():
        figures = [f"{k} {share_text(v)}" for k, v in values.items() if isinstance(v, float | None)]
        classes = [f"{k} {share_text(v)}" for k, v in values.get("IoU", {}).items()]
        text = ", ".join(figures) + (f"; IoU of {', '.join(classes)}" if classes else "")
        lines.append((name, f"{text} ({values.get('protocol', 'protocol unknown')})"))
    return lines


def quantization_lines(quantized: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how a network was quantized and what that cost, a label and a text for each side.

    Args:
        quantized: What an exported network says of it (`ModelMeta.quantized`).
    """
    before, after = quantized["before"], quantized["after"]
    layers = quantized["float_layers"]
    steps = [f"numbers in {quantized['precision']}"]
    if quantized["ranges"] is not None:
        patches = f"{quantized['patches']:,} training patches"
        steps.append(f"ranges by {quantized['ranges']} of {patches} of {quantized['data']}")
        steps.append(f"kept in float: {', '.join(layers) or 'nothing'}")
    cost = [f"mIoU {share_text(before['mIoU'])} to {share_text(after['mIoU'])}"]
    for name, value in before["IoU"].items():
        cost.append(f"{name} {share_text(value)} to {share_text(after['IoU'][name])}")
    sizes = (f"{quantized[key]['bytes'] / 1e6:.1f}" for key in ("before", "after"))
    speed = [
        f"{runtime} {first:.1f} to {second:.1f} ms a window"
        for runtime, (first, second) in quantized["milliseconds"].items()
    ]
    return [
        ("quantized", "; ".join(steps)),
        (
            "at a cost of",
            f"{', '.join(cost)} ({quantized['protocol']}); "
            f"{share_text(quantized['agreement'])} of labels agree",
        ),
        ("for", f"{' to '.join(sizes)} MB; {', '.join(speed)} on {quantized['hardware']}"),
    ]


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """Return in words what `hrrsi.runs.environment.hardware` finds."""
    parts = [
        str(hardware.get("cpu", "unknown processor")),
        counted(hardware.get("cores", 0), "core"),
        f"{hardware.get('memory_gb', '?')} GB of memory",
        *hardware.get("gpus", []),
    ]
    return ", ".join(parts)


def _data_text(
    data: str | None, scenes: list[str] | None, patches: int | None, size: int | None
) -> str:
    parts = [counted(len(scenes), "scene")] if scenes else []
    if patches:
        parts.append(f"{patches:,} patches" + (f" of {size} px" if size else ""))
    return ": ".join(filter(None, (data, ", ".join(parts))))


def _start_text(init: str | None, encoder: str | None, frozen: int | None) -> str:
    if init is not None:
        start = f"{init}, as far as it fits"
    elif encoder is None:
        return ""
    else:
        start = {"none": "random numbers", "imagenet": "an encoder of timm's, from ImageNet"}.get(
            encoder, f"the encoder of {encoder}"
        )
    return start + (f"; encoder kept for {counted(frozen, 'epoch')}" if frozen else "")


def _setting_text(key: str, value: Any) -> str:
    words = key.replace("_", " ")
    if value is True:
        return words
    if key != _SEED and (not value or (key in _COUNTS and value == 1)):
        return ""
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"
