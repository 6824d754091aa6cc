"""What a profile holds: figures of networks, how they are taken, and their tables."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from hrrsi.errors import OptionError
from hrrsi.extras import is_installed
from hrrsi.prediction.options import EngineOptions
from hrrsi.quantities import TextTable


class PublishedFigures(NamedTuple):
    """What the networks' published table says, for 6 classes at 512x512."""

    parameters: int
    gflops: float


PUBLISHED: dict[str, PublishedFigures] = {
    "ued": PublishedFigures(2_767_252, 1.44),
    "ued_bes": PublishedFigures(2_822_393, 2.19),
    "ued_bes_sfm": PublishedFigures(2_833_409, 2.37),
}
PUBLISHED_SIZE, PUBLISHED_CLASSES = 512, 6
SMALLEST_SIZE = 32  # networks halve a window five times


Style = Literal["table", "markdown"]


@dataclass(frozen=True)
class Operations:
    """What one forward pass computes, all heads included.

    Attributes:
        macs: Multiply-accumulates of convolutions and matrix products, and of nothing else. Of
            encoders with attention, the products of queries, keys and values are not counted:
            they are no layers.
        published: The published "FLOPs": multiply-accumulates of convolutions, plus 1 per element
            for a convolution's bias, 2 per element of a BatchNorm and 1 per element of a ReLU;
            resizing, sampling, sigmoids, pooling, additions and products of maps count nothing.
            Linear layers count as the 1x1 convolutions that they are; other norms and activations,
            which the published networks lack, count nothing. None of exported networks, whose
            BatchNorms are folded into convolutions.
    """

    macs: int
    published: int | None


@dataclass(frozen=True)
class Latency:
    """Time and memory of a network as `hrrsi.predict` runs it: the segmentation head alone.

    Attributes:
        device: Name of the device, with the number of threads where it is a CPU.
        engine: What runs it, and in which precision.
        batch: Windows a pass.
        milliseconds: Median time of a window, from its pixels to its logits, both in main memory,
            where several are in work at once.
        megapixels_per_second: The same as a rate.
        peak_memory_bytes: GPU: most memory that PyTorch held on it. CPU: peak resident memory of
            a process that does nothing else, Python included.
    """

    device: str
    engine: str
    batch: int
    milliseconds: float
    megapixels_per_second: float
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "device": self.device,
            "engine": self.engine,
            "batch": self.batch,
            "milliseconds_per_window": self.milliseconds,
            "megapixels_per_second": self.megapixels_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True)
class SustainedSpeed:
    """How a network runs for a while by one runtime, in one precision, on so many threads.

    Attributes:
        engine: The runtime.
        precision: What it calculates in.
        threads: Processor threads that it may use.
        device: Name of the device.
        seconds: How long it ran after a warm-up.
        windows: How many it computed.
        p50_milliseconds: Median time from a window's pixels to its logits, while as many windows
            are in work as the runtime computes side by side, and
        p99_milliseconds: what 99 of 100 windows stay below.
        windows_per_second: Over all the time.
        first_quarter: Windows per second in the first quarter of them, and
        last_quarter: in the last one: less, where the processor had to slow down.
        joules_per_window: Energy of the processor's package, whatever else it did included; None
            where the kernel does not tell it.
        energy_missing: Why it does not; empty where it does.
        peak_memory_bytes: As in `Latency`.
    """

    engine: str
    precision: str
    threads: int
    device: str
    seconds: float
    windows: int
    p50_milliseconds: float
    p99_milliseconds: float
    windows_per_second: float
    first_quarter: float
    last_quarter: float
    joules_per_window: float | None
    energy_missing: str
    peak_memory_bytes: int


@dataclass(frozen=True)
class NotMeasured:
    """A runtime and precision that a network does not run by here.

    Attributes:
        engine: The runtime.
        precision: What it should calculate in.
        reason: Why not, in words.
    """

    engine: str
    precision: str
    reason: str


@dataclass(frozen=True)
class Profile:
    """What a network costs for one window.

    Attributes:
        model: Name of the network.
        weights: The weights file it was read from, or None for a network by name.
        packaged: The name of the package's weights that these are, or None.
        classes: Number of classes.
        size: Rows and columns of the window.
        parameters: Number of parameters; of an exported network, of the numbers in its kernels.
        operations: What one forward pass computes; None where PyTorch, which counts them, is
            not installed.
        ptflops_macs: What ptflops counts with its ``pytorch`` backend: also resizing, pooling
            and whatever else is called through Python. None likewise.
        file_bytes: Size of the weights file; for a network by name that of a float32
            ``.safetensors`` without metadata.
        latency: How fast it runs here, or None where that was not measured.
        pruned: What was cut out of it (`hrrsi.networks.model_meta.ModelMeta`), or None.
        sustained: How it ran for a while, by each runtime, precision and number of threads.
        not_measured: Those of them that it does not run by here.
    """

    model: str
    weights: str | None
    classes: int
    size: int
    parameters: int
    operations: Operations | None
    ptflops_macs: int | None
    file_bytes: int
    packaged: str | None = None
    latency: Latency | None = None
    pruned: list[dict[str, Any]] | None = None
    sustained: tuple[SustainedSpeed, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()

    @property
    def published(self) -> PublishedFigures | None:
        """The published table's figures, where they are for the same channels, classes and size."""
        if self.pruned or (self.size, self.classes) != (PUBLISHED_SIZE, PUBLISHED_CLASSES):
            return None
        return PUBLISHED.get(self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain data; operations in units of 1e9, None if not counted."""
        published, operations = self.published, self.operations
        latency: dict[str, Any] = {}
        if self.latency is not None:
            latency["latency"] = self.latency.to_dict()
        if self.sustained or self.not_measured:
            latency |= {
                "sustained": [asdict(speed) for speed in self.sustained],
                "not_measured": [asdict(way) for way in self.not_measured],
            }
        return {
            "model": self.model,
            "weights": self.weights,
            "weights_packaged": self.packaged,
            "pruned": self.pruned,
            "classes": self.classes,
            "size": self.size,
            "parameters": self.parameters,
            "gmacs": operations and operations.macs / 1e9,
            "gflops": operations and 2 * operations.macs / 1e9,
            "gflops_published": operations and operations.published and operations.published / 1e9,
            "gflops_published_table": published and published.gflops,
            "ptflops_gmacs": self.ptflops_macs and self.ptflops_macs / 1e9,
            "file_bytes": self.file_bytes,
            **latency,
        }


@dataclass(frozen=True)
class ProfileOptions:
    """How networks are profiled.

    Attributes:
        classes: Number of classes of networks by name, 1 to 254.
        size: Rows and columns of the window, in pixels, at least 32.
        latency: Whether speed and peak memory are measured, which takes seconds a network.
        seconds: For how long each runtime and precision runs, on one thread and on all, as
            `SustainedSpeed` says; above 0, or None for not at all.
        batch: Windows a pass where they are measured, at least 1.
        device: Where they are: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        engine: What runs the networks there, as in `hrrsi.EngineOptions`; for `seconds`, ``auto``
            is each one.
        precision: Likewise.

    Raises:
        OptionError: One is not usable.
    """

    classes: int = PUBLISHED_CLASSES
    size: int = PUBLISHED_SIZE
    latency: bool = False
    seconds: float | None = None
    batch: int = 1
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, value, least in (("size", self.size, SMALLEST_SIZE), ("batch", self.batch, 1)):
            if value < least:
                raise OptionError(f"{value} is below {least}", parameter=name)
        if not 1 <= self.classes <= 254:
            raise OptionError(f"{self.classes} is not from 1 to 254", parameter="classes")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise OptionError(
                f"{self.seconds:g} is no time", parameter="seconds", fix="give a number above 0"
            )
        if self.seconds is not None and not self.latency:
            raise OptionError(
                "is of speed, and none is measured", parameter="seconds", fix="give `latency=True`"
            )
        self.engine_options()  # which checks the rest

    def engine_options(self) -> EngineOptions:
        """Return what runs the networks where their speed is measured."""
        return EngineOptions(
            engine=self.engine, precision=self.precision, device=self.device, batch=self.batch
        )


class ProfileStopped(KeyboardInterrupt):
    """A stop was asked for when some of the figures were there.

    Attributes:
        profiles: Those that were.
    """

    def __init__(self, profiles: list[Profile]) -> None:
        super().__init__("interrupted; what was measured until then is above")
        self.profiles = profiles


def profile_table(profiles: Sequence[Profile], *, style: Style = "table") -> str:
    """Return profiles as a table, followed by a line on each column's convention.

    A table of each one's sustained speeds follows, where there are any.

    Args:
        profiles: One a row, all of the same window size, and all with a latency or none.
        style: ``table`` for the terminal, or ``markdown``.
    """
    from importlib import metadata

    ptflops = f"ptflops {metadata.version('ptflops')}" if is_installed("ptflops") else "ptflops"
    names = [
        "model",
        "parameters",
        "published\nFLOPs (G)",
        "published\ntable (G)",
        f"{ptflops}\n(GMACs)",
        "conv+matmul\nMACs (G)",
        "real\nFLOPs (G)",
        "weights\nfile (MB)",
    ]
    if profiles[0].latency is not None:
        names += ["latency\n(ms/window)", "speed\n(Mpx/s)", "peak\nmemory (MB)"]
    table = _table(names, [_profile_cells(profile) for profile in profiles], style)
    parts = [table, "", *_note_lines(_notes(profiles, ptflops), style)]
    lasting = [profile for profile in profiles if profile.sustained or profile.not_measured]
    for profile in lasting:
        parts += ["", *_sustained_lines(profile, style)]
    if lasting:
        parts += ["", *_note_lines(_sustained_notes(lasting), style)]
    return "\n".join(parts)


def _table(names: list[str], rows: list[list[str]], style: Style) -> str:
    table = TextTable(names)
    for row in rows:
        table.add_row(row)
    return table.markdown() if style == "markdown" else str(table)


def _note_lines(notes: Sequence[str], style: Style) -> list[str]:
    if style == "markdown":
        return [f"- {note}" for note in notes]
    return [
        textwrap.fill(note, 98, subsequent_indent="  ", break_on_hyphens=False) for note in notes
    ]


def _profile_cells(profile: Profile) -> list[str]:
    published, operations, ptflops = profile.published, profile.operations, profile.ptflops_macs
    return [
        _profile_name(profile),
        f"{profile.parameters:,}",
        f"{operations.published / 1e9:.2f}" if operations and operations.published else "-",
        f"{published.gflops:.2f}" if published else "-",
        f"{ptflops / 1e9:.3f}" if ptflops is not None else "-",
        f"{operations.macs / 1e9:.3f}" if operations else "-",
        f"{2 * operations.macs / 1e9:.3f}" if operations else "-",
        f"{profile.file_bytes / 1e6:.2f}",
        *([] if profile.latency is None else _latency_cells(profile.latency)),
    ]


def _profile_name(profile: Profile) -> str:
    return profile.model if profile.weights is None else f"{profile.model} ({profile.weights})"


def _latency_cells(latency: Latency) -> list[str]:
    return [
        f"{latency.milliseconds:.1f}",
        f"{latency.megapixels_per_second:.2f}",
        f"{latency.peak_memory_bytes / 1e6:.0f}",
    ]


def _notes(profiles: Sequence[Profile], ptflops: str) -> list[str]:
    from hrrsi.networks.model_meta import pruning_lines  # numpy, which --help does without

    size = profiles[0].size
    classes = " and ".join(str(c) for c in sorted({p.classes for p in profiles}))
    are_exported = [bool(p.operations and p.operations.published is None) for p in profiles]
    heads = "" if all(are_exported) else ", all heads"
    notes = [
        f"One {size}x{size} window, {classes} classes{heads}. G = 1e9, MB = 1e6 bytes.",
        "published FLOPs: the convention of the published table, counted here: "
        "multiply-accumulates of convolutions + 1 per element for a bias, 2 for BatchNorm, 1 for "
        "ReLU.",
        "published table: what that table says (6 classes, 512x512), - where it says nothing.",
        f"{ptflops}: its pytorch backend; counts resizing, pooling and Python-level calls too.",
        "conv+matmul MACs: multiply-accumulates of convolutions and matrix products alone.",
        "real FLOPs: a multiplication and an addition for each of those MACs.",
        "weights file: float32 .safetensors without metadata, or the file named.",
    ]
    if any(profile.operations is None for profile in profiles):
        notes.append("-: not counted, since PyTorch is not installed.")
    if any(are_exported):
        notes.append(
            "of an exported network, kernels are counted as parameters, and MACs of what it "
            "computes: the segmentation head alone; conventions of layers (-) don't apply to it."
        )
    notes += [
        f"{_profile_name(profile)}: pruned {line}."
        for profile in profiles
        for _, line in pruning_lines(profile.pruned)
    ]
    models_by_way: dict[str, list[str]] = {}
    for profile in profiles:
        if (latency := profile.latency) is not None:
            way = f"{latency.engine}, batch {latency.batch}, on {latency.device}"
            models_by_way.setdefault(way, []).append(profile.model)
    if models_by_way:
        ways = [
            way if len(models_by_way) == 1 else f"{', '.join(models)} by {way}"
            for way, models in models_by_way.items()
        ]
        notes += [
            "latency: median time as `hrrsi predict` runs the network (segmentation head alone, "
            f"copies to and from the device included): {'; '.join(ways)}.",
            "peak memory: of a process that does nothing else; on a GPU, what PyTorch held there.",
        ]
    return notes


def _sustained_lines(profile: Profile, style: Style) -> list[str]:
    names = [
        "runtime",
        "precision",
        "threads",
        "windows",
        "p50\n(ms)",
        "p99\n(ms)",
        "sustained\n(windows/s)",
        "first to last\nquarter",
        "energy\n(J/window)",
        "peak\nmemory (MB)",
    ]
    rows = [
        [
            speed.engine,
            speed.precision,
            f"{speed.threads}",
            f"{speed.windows:,}",
            f"{speed.p50_milliseconds:.1f}",
            f"{speed.p99_milliseconds:.1f}",
            f"{speed.windows_per_second:.2f}",
            f"{speed.first_quarter:.2f} to {speed.last_quarter:.2f}",
            "-" if speed.joules_per_window is None else f"{speed.joules_per_window:.2f}",
            f"{speed.peak_memory_bytes / 1e6:.0f}",
        ]
        for speed in profile.sustained
    ]
    lines = [f"{_profile_name(profile)}, window after window:", ""]
    if rows:
        lines += [_table(names, rows, style), ""]
    missing = [
        f"not measured: {way.engine} in precision {way.precision}: {way.reason}."
        for way in profile.not_measured
    ]
    return [*lines, *_note_lines(missing, style)]


def _sustained_notes(profiles: Sequence[Profile]) -> list[str]:
    speeds = [speed for profile in profiles for speed in profile.sustained]
    if not speeds:
        return []
    devices = " and ".join(dict.fromkeys(speed.device for speed in speeds))
    notes = [
        f"Each row ran for {min(speed.seconds for speed in speeds):.0f} s or longer, in a process "
        f"of its own, on {devices}.",
        "p50, p99: time from a window's pixels to its logits, with as many in work at once as the "
        "runtime computes side by side.",
        "sustained: windows over all that time; a last quarter below the first one: the processor "
        "had to slow down, or had other work.",
        "energy: of the processor's whole package, as the kernel tells it (powercap).",
    ]
    reasons = dict.fromkeys(speed.energy_missing for speed in speeds if speed.energy_missing)
    return [*notes, *(f"energy, -: {reason}." for reason in reasons)]
