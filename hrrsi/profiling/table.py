"""The table that `hrrsi profile` prints, with what each column means."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from importlib import metadata
from typing import Literal

from prettytable import PrettyTable, TableStyle

from hrrsi.profiling.latency import Latency
from hrrsi.profiling.profile import Profile


def profile_table(
    profiles: Sequence[Profile],
    latencies: Sequence[Latency] = (),
    *,
    style: Literal["table", "markdown"] = "table",
) -> str:
    """Return profiles as a table, followed by a line on each column's convention.

    Args:
        profiles: One a row, all of the same window size.
        latencies: One for each profile, or none.
        style: ``table`` for the terminal, or ``markdown``.
    """
    ptflops = f"ptflops {metadata.version('ptflops')}"
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
    if latencies:
        names += ["latency\n(ms/window)", "speed\n(Mpx/s)", "peak\nmemory (MB)"]
    rows = [_profile_cells(profile) for profile in profiles]
    for cells, latency in zip(rows, latencies, strict=False):
        cells += _latency_cells(latency)
    if style == "markdown":
        table = PrettyTable([name.replace("\n", " ") for name in names])
        table.set_style(TableStyle.MARKDOWN)
    else:  # PrettyTable breaks lines in rows, not in headers
        table = PrettyTable(names, header=False)
        table.add_row(names, divider=True)
    table.add_rows(rows)
    table.align = "r"
    table.align[table.field_names[0]] = "l"
    notes = _notes(profiles, latencies, ptflops)
    if style == "markdown":
        lines = [f"- {note}" for note in notes]
    else:
        lines = [
            textwrap.fill(note, 98, subsequent_indent="  ", break_on_hyphens=False)
            for note in notes
        ]
    return "\n".join([table.get_string(), "", *lines])


def _profile_cells(profile: Profile) -> list[str]:
    published, operations = profile.published, profile.operations
    name = profile.model if profile.weights is None else f"{profile.model} ({profile.weights})"
    return [
        name,
        f"{profile.parameters:,}",
        f"{operations.published / 1e9:.2f}",
        f"{published.gflops:.2f}" if published else "-",
        f"{profile.ptflops_macs / 1e9:.3f}",
        f"{operations.macs / 1e9:.3f}",
        f"{2 * operations.macs / 1e9:.3f}",
        f"{profile.file_bytes / 1e6:.2f}",
    ]


def _latency_cells(latency: Latency) -> list[str]:
    return [
        f"{latency.milliseconds:.1f}",
        f"{latency.megapixels_per_second:.2f}",
        f"{latency.peak_memory_bytes / 1e6:.0f}",
    ]


def _notes(profiles: Sequence[Profile], latencies: Sequence[Latency], ptflops: str) -> list[str]:
    size = profiles[0].size
    classes = " and ".join(str(c) for c in sorted({p.classes for p in profiles}))
    notes = [
        f"One {size}x{size} window, {classes} classes, all heads. G = 1e9, MB = 1e6 bytes.",
        "published FLOPs: the convention of the published table, counted here: "
        "multiply-accumulates of convolutions + 1 per element for a bias, 2 for BatchNorm, 1 for "
        "ReLU.",
        "published table: what that table says (6 classes, 512x512), - where it says nothing.",
        f"{ptflops}: its pytorch backend; counts resizing, pooling and Python-level calls too.",
        "conv+matmul MACs: multiply-accumulates of convolutions and matrix products alone.",
        "real FLOPs: a multiplication and an addition for each of those MACs.",
        "weights file: float32 .safetensors without metadata, or the file named.",
    ]
    if latencies:
        ran: dict[str, list[str]] = {}
        for profile, each in zip(profiles, latencies, strict=True):
            how = f"{each.engine}, batch {each.batch}, on {each.device}"
            ran.setdefault(how, []).append(profile.model)
        shown = [
            how if len(ran) == 1 else f"{', '.join(models)} by {how}" for how, models in ran.items()
        ]
        notes += [
            "latency: median time as `hrrsi predict` runs the network (segmentation head alone, "
            f"copies to and from the device included): {'; '.join(shown)}.",
            "peak memory: of a process that does nothing else; on a GPU, what PyTorch held there.",
        ]
    return notes
