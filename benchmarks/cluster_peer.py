"""`hrrsi predict` alone and on two workers, beside geo-inference, the peer that maps with Dask.

    python benchmarks/cluster_peer.py --size 10000x20000 --environment /tmp/geo-inference

Each is timed from the start of its process to its end, in interleaved rounds, with two threads or
with two workers of one; peak memory is the sum of its processes' high-water marks. All run the
packaged network on the same raster: geo-inference gets it as TorchScript, with the normalisation
inside, since it gives networks the pixels as they are. Windows and overlaps are each tool's own.

The environment is made by pip where it isn't there, and kept. What both need (torch, Dask, GDAL)
is that of hrrsi's own environment, so both compute with the same.

What else is worth knowing of geo-inference 3.2.4: pixels that are 0 in any band get no class
where a raster names no nodata value; windows of 1024 px begin every 512 px, so each pixel is
computed four times; labels are written without compression, overviews or colours, under a new name
in each run (SCENE_mask_d0f3a1.tif) that is there while the map isn't whole; the first Ctrl-C is not
heard until the map is done, a second one aborts it; each import writes a log below ~/.cache (here
below a folder of the benchmark's).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from measured_process import Measured, measured
from predict_speed import HERE, agreement, read_texture, write_scene
from seam_statistic import map_label_changes, seam_statistic

import hrrsi
from hrrsi.classes import IGNORE_INDEX
from hrrsi.networks.segmentation import UED
from hrrsi.quantities import TextTable
from hrrsi.scenes.windows import DEFAULT_WINDOW, default_overlap

TEXTURE = HERE.parent / "examples/dubai/tile1/images/image_part_007.jpg"
# geo-inference 3.2.4 names torchgeo, which it doesn't import, and its heap of packages; it imports
# hydra and omegaconf, which it doesn't name. So it is installed without what it names.
PEER = ("geo-inference==3.2.4",)
PEER_NEEDS = (
    "colorlog==6.7.0",
    "geopandas==1.2.0",
    "hydra-core==1.3.8",
    "omegaconf==2.3.1",
    "pystac==1.13.0",
    "requests",
    "rioxarray==0.19.0",
    "rtree==1.4.1",
    "ttach==0.0.3",
    "xarray==2026.9.0",
)
PEER_PATCH = 1024  # pixels of a window, its default; its windows overlap by half


class ScaledPixels(torch.nn.Module):
    """Pixels of 0 to 255 in, logits out."""

    def __init__(self, network: UED) -> None:
        super().__init__()
        self.network = network
        scale, bands = network.meta.scale, (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(network.meta.mean).reshape(bands) * scale)
        self.register_buffer("std", torch.tensor(network.meta.std).reshape(bands) * scale)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (1, classes, H, W) logits of (1, bands, H, W) pixels of any type."""
        return self.network.segment((pixels.float() - self.mean) / self.std)


@dataclass(frozen=True)
class Way:
    """One way to map the scene.

    Attributes:
        name: What it is called in the table.
        command: Its command line, given the folder that it writes to.
        window: Pixels of its windows.
        overlap: Pixels that neighbouring windows share.
    """

    name: str
    command: Callable[[Path], list[str]]
    window: int = DEFAULT_WINDOW
    overlap: int = default_overlap(DEFAULT_WINDOW)


def write_torchscript(path: Path) -> int:
    """Write the packaged network as TorchScript; return how many classes it knows."""
    network = hrrsi.load_model()
    side = PEER_PATCH
    example = torch.zeros(1, network.meta.band_count, side, side, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript, which geo-inference wants, is deprecated; sizes here are always the same
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.trace(ScaledPixels(network).eval(), example).save(str(path))
    return len(network.meta.classes)


def peer_python(folder: Path) -> Path:
    """Return the interpreter of the peer's environment, which is made where it isn't there."""
    python = folder / "bin/python"
    if (folder / "complete").exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    shared = [path for path in paths if path.endswith("site-packages")]
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "shared.pth").write_text("\n".join(shared) + "\n")  # behind its own
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", *PEER], check=True)
    subprocess.run([*pip, *PEER_NEEDS], check=True)
    (folder / "complete").touch()
    return python


def ways(scene: Path, network: Path, classes: int, python: Path, home: Path) -> list[Way]:
    def own(*options: str) -> Callable[[Path], list[str]]:
        run = [sys.executable, "-m", "hrrsi", "predict", str(scene), "--overwrite", "--quiet"]
        return lambda out: [*run, "--out", str(out / "map.tif"), *options]

    def peer(out: Path) -> list[str]:
        script = [str(HERE / "geo_inference_way.py"), str(scene), str(network), str(out)]
        # it writes a log to the user's cache whenever it is imported
        return ["env", f"HOME={home}", str(python), *script, str(classes), "2"]

    return [
        Way("hrrsi, one process of two threads", own("--threads", "2")),
        Way("hrrsi, two workers of one thread", own("--cluster", "local:2")),
        Way("geo-inference, two threads of Dask", peer, PEER_PATCH, PEER_PATCH // 2),
    ]


def map_of(run: Measured, out: Path) -> Path:
    own = out / "map.tif"
    return own if own.exists() else Path(json.loads(run.output.splitlines()[-1])["map"])


def without_class(path: Path) -> float:
    """Return the share of a map's pixels that got no class."""
    with rasterio.open(path) as dataset:
        windows = [window for _, window in dataset.block_windows(1)]
        missing = sum(int(np.sum(dataset.read(1, window=w) == IGNORE_INDEX)) for w in windows)
        return missing / (dataset.height * dataset.width)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="2000x2000", metavar="WIDTHxHEIGHT")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--environment", type=Path, required=True, help="folder of geo-inference's environment"
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    python = peer_python(options.environment.absolute())
    width, height = map(int, options.size.split("x"))
    columns = ["way", "seconds", "all rounds", "peak MB", "same labels", "no class"]
    table = TextTable([*columns, "changes on seams", "p"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene, network = folder / "scene.tif", folder / "network.pt"
        write_scene(scene, read_texture(TEXTURE), height, width)
        classes = write_torchscript(network)
        contestants = ways(scene, network, classes, python, folder)
        outs = [folder / f"out{number}" for number in range(len(contestants))]
        runs: list[list[Measured]] = [[] for _ in contestants]
        for _ in range(options.rounds):
            for own, way, out in zip(runs, contestants, outs, strict=True):
                out.mkdir(exist_ok=True)
                own.append(measured(way.command(out)))
        maps = [map_of(own[-1], out) for own, out in zip(runs, outs, strict=True)]
        for way, own, path in zip(contestants, runs, maps, strict=True):
            changes = map_label_changes(path)
            seams = seam_statistic(changes, window=way.window, overlap=way.overlap)
            table.add_row(
                [
                    way.name,
                    f"{statistics.median(run.seconds for run in own):.1f}",
                    " ".join(f"{run.seconds:.1f}" for run in own),
                    f"{max(run.peak for run in own):.0f}",
                    f"{agreement(maps[0], path):.3%}",
                    f"{without_class(path):.3%}",
                    "-" if seams is None else f"{seams.ratio:.3f}",
                    "-" if seams is None else f"{seams.p_value:.3f}",
                ]
            )
        alone = [json.loads(run.output.splitlines()[-1])["seconds"] for run in runs[-1]]
    print(table)
    print(
        f"{options.size} px. Of geo-inference's seconds, {statistics.median(alone):.1f} are those "
        "after its imports. Same labels: as the first row's. Changes on seams: how many times as "
        "many labels change where windows meet as elsewhere; near p = 0 windows show."
    )


if __name__ == "__main__":
    main()
