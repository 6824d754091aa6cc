"""Broken inputs, each from a seed: rasters, weights, YAML and archives, and what hrrsi says.

Every input is read in a process of its own, forked once everything is imported, with limits on time
and memory. What is allowed: that it can be read, or an error of hrrsi's own in one line.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from broken_runs import (
    broken_checkpoint,
    broken_map,
    broken_run,
    inputs,
    look,
    read_checkpoint,
    read_map,
    read_run,
)
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from rounds import Rounds, is_wrong

from hrrsi.errors import HrrsiError
from hrrsi.file_info import info
from hrrsi.labels.labelled_scenes import labelled_scenes
from hrrsi.labels.scheme import Scheme, load_scheme
from hrrsi.maps.rasters import read_class_raster
from hrrsi.networks.weights_reading import read_weights
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.scene_rasters import is_product
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.tiling.options import TileOptions
from hrrsi.tiling.tile import tile

SECONDS = 30
_PLACE = from_origin(500000, 2790000, 0.3, 0.3)
BYTES = 2 << 30
_NASTY = (
    "null", "true", "-1", "1e999", "9" * 5000, "''", "[]", "{}", "[[[]]]", "2001-99-99", "0x", "*a",
    "&a [*a]", "!!python/object:os.system x", "\t", "\x00", "\u202e", "nan", ".inf", "2024-02-30",
)  # fmt: skip
_NASTY_JSON = (
    None,
    True,
    -1,
    0,
    1e300,
    [],
    {},
    [[]],
    "",
    "x",
    "\x1b[31m",
    [None],
    {"a": [1]},
    2**70,
)


def broken_inputs(
    kind: str, number: int, seed: int, keep: Path, weights: Path, rounds: Rounds
) -> None:
    """Read so many broken inputs of a kind, and keep those that fail.

    Args:
        kind: One of `KINDS`.
        number: How many.
        seed: The first one's seed; each has the next.
        keep: Folder of those that fail, with the error beside them.
        weights: A weights file to break.
        rounds: Gets what became of each; what it holds is not read again.
    """
    make, read = KINDS[kind]
    for each in range(seed, seed + number):
        if f"{kind}/{each}" in rounds:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = make(random.Random(each), Path(folder), weights)
            verdict, text, seconds, size = _verdict(read, path)
            what = {"verdict": verdict, "text": text[:2000], "seconds": round(seconds, 2)}
            if is_wrong(rounds.add(f"{kind}/{each}", **what, bytes=size)):
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"{kind}-{each}{path.suffix}"
                if path.is_dir():
                    shutil.copytree(path, kept, dirs_exist_ok=True)
                else:
                    kept.write_bytes(path.read_bytes())
                kept.with_name(kept.name + ".txt").write_text(f"{verdict}\n{text}")


def _verdict(read: Callable[[Path], None], path: Path) -> tuple[str, str, float, int]:
    """Return what became of an input in a process of its own: words, text, seconds, bytes."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        _read_and_say(read, path, sending)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        report = pipe.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(child, 0)
    size = usage.ru_maxrss * 1024
    seconds = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        verdict = "too long" if name in ("SIGALRM", "SIGXCPU") else f"ended by {name}"
        return verdict, report, seconds, size
    verdict, _, text = report.partition("\n")
    if size > BYTES:
        verdict = "too much memory"
    return verdict or "ended without a word", text, seconds, size


def _read_and_say(read: Callable[[Path], None], path: Path, sending: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10 * SECONDS)  # of the clock, on a busy machine
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # GDAL's own lines
    try:
        read(path)
        report = "read"
    except HrrsiError as error:
        report = ("several lines" if "\n" in str(error) else "refused") + f"\n{error}"
    except BaseException as error:  # what the campaign looks for
        import traceback

        report = f"{type(error).__name__}\n{traceback.format_exc()}"
    os.write(sending, report.encode("utf-8", "replace")[:60000])
    os._exit(0)


def _broken(rng: random.Random, content: bytes) -> bytes:
    """Return bytes with some of them flipped, cut off, zeroed, doubled, or set to extremes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        # headers decide more than pixels
        end = len(data) if rng.random() < 0.4 else min(len(data), 600)
        place = rng.randrange(end)
        change = rng.randrange(6)
        if change == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif change == 1:
            del data[rng.randrange(len(data)) :]
        elif change == 2:
            length = rng.choice((1, 4, 64, 600))
            data[place : place + length] = bytes(len(data[place : place + length]))
        elif change == 3:
            data[place:place] = data[place : place + rng.choice((1, 8, 300))]
        elif change == 4:
            extreme = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
            value = struct.pack("<I", extreme)[: len(data) - place]
            data[place : place + len(value)] = value
        else:
            data[place] = rng.randrange(256)
    return bytes(data)


def _pixels(rng: random.Random, bands: int, dtype: str) -> np.ndarray:
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 200, (bands, 40, 48))
    return values.astype(dtype)


def _geotiff(pixels: np.ndarray, **options: Any) -> bytes:
    bands, height, width = pixels.shape
    shape = {"width": width, "height": height, "count": bands, "dtype": pixels.dtype.name}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", transform=_PLACE, **shape, **options) as dataset:
            dataset.write(pixels)
        return memory.read()


def broken_raster(rng: random.Random, folder: Path, _: Path) -> Path:
    """Write a raster that was damaged: GeoTIFFs of many layouts, PNG, JPEG, VRT."""
    kind = rng.choice(("tif", "tif", "tif", "png", "jpg", "vrt", "vrt"))
    bands = rng.choice((1, 3, 4))
    pixels = _pixels(rng, bands, "uint8")
    if kind in ("png", "jpg"):
        image = Image.fromarray(pixels[:3].transpose(1, 2, 0) if bands > 2 else pixels[0])
        buffer = io.BytesIO()
        image.save(buffer, format={"png": "PNG", "jpg": "JPEG"}[kind])
        content = buffer.getvalue()
    else:
        dtype = rng.choice(("uint8", "uint16", "float32"))
        options = {
            "compress": rng.choice((None, "deflate", "lzw", "zstd")),
            "tiled": rng.random() < 0.5,
        }
        if options["tiled"]:
            options |= {"blockxsize": 16, "blockysize": 16}
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff", width=48, height=40, count=bands, dtype=dtype, crs="EPSG:32640",
                nodata=rng.choice((None, 0)), **options,
            ) as dataset:  # fmt: skip
                dataset.write(pixels.astype(dtype))
                dataset.update_tags(HRRSI_CLASSES='["a","b"]', HRRSI_CLASS_PIXELS="[1900, 20]")
                if rng.random() < 0.3:
                    dataset.build_overviews([2])
            content = memory.read()
    if kind == "vrt":
        (folder / "source.tif").write_bytes(content)
        text = (
            '<VRTDataset rasterXSize="48" rasterYSize="40"><SRS>EPSG:32640</SRS>'
            "<GeoTransform>500000,0.3,0,2790000,0,-0.3</GeoTransform><Metadata><MDI key='a'>b</MDI>"
            '</Metadata><VRTRasterBand dataType="Byte" band="1"><ColorInterp>Gray</ColorInterp>'
            '<SimpleSource><SourceFilename relativeToVRT="1">source.tif</SourceFilename>'
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
        )
        content = text.encode()
    path = folder / f"broken.{kind}"
    path.write_bytes(_broken(rng, content))
    return path


def read_raster(path: Path) -> None:
    """Read all that hrrsi reads of a raster."""
    info(path)
    is_product(path)
    read_class_raster(path)
    with open_scene(path, bands=(1,), expected_bands=1) as scene:
        # as the sliding window does: in parts, however large the file says it is
        scene.read(Window(0, 0, min(scene.height, 512), min(scene.width, 512)))


def broken_weights(rng: random.Random, folder: Path, weights: Path) -> Path:
    """Write weights that were damaged, or whose description has another shape."""
    content = weights.read_bytes()
    path = folder / "broken.safetensors"
    if rng.random() < 0.4:
        path.write_bytes(_broken(rng, content))
        return path
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = header["__metadata__"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(metadata))
        change = rng.randrange(5)
        if change == 0:
            del metadata[name]
        elif change == 1:
            metadata[name] = json.dumps(rng.choice(_NASTY_JSON))
        elif change == 2:
            metadata[name] = rng.choice(("[" * 20000, "9" * 5000, "{", "NaN", "[1,", '"\\ud800"'))
        elif change == 3:
            value = json.loads(metadata[name]) if metadata[name][:1] in "[{" else None
            metadata[name] = json.dumps(value[:-1] if isinstance(value, list) else [value])
        else:
            tensor = rng.choice([key for key in sorted(header) if key != "__metadata__"])
            changed = rng.choice(("dtype", "shape", "data_offsets"))
            values = {"dtype": "BF16", "shape": [1, 2**40], "data_offsets": [0, 4]}
            header[tensor] = {**header[tensor], changed: values[changed]}
        if not metadata:
            break
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    return path


def read_all_weights(path: Path) -> None:
    """Read all that hrrsi reads of weights."""
    for read in (info, read_weights):
        try:
            read(path)
        except HrrsiError:
            if read is read_weights:
                raise


_SCHEME = """\
name: own
classes:
  - {name: roof, colour: [200, 0, 0], code: RF}
  - {name: grass, colour: [0, 200, 0]}
ignored:
  - {name: unsure, colour: [0, 0, 0]}
label_format: indices
images: ["images/{scene}.tif"]
labels: ["labels/{scene}.tif"]
resolution: 0.3
splits:
  own: {train: [a], val: [b], test: []}
"""
_BOMB = "a0: &a0 [x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


def broken_yaml(rng: random.Random, folder: Path, _: Path) -> Path:
    """Write a scheme or a dataset's description that was damaged."""
    name = rng.choice(("own.yaml", "dataset.yaml"))
    whole = inputs() / "dataset" / name
    text = whole.read_text() if whole.is_file() else _SCHEME
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        change = rng.choice((0, 0, 0, 0, 0, 0, 3, 4, 5))
        if change == 0:
            place = rng.choice(list(re.finditer(r"[\w.]+", text)) or [None])
            if place is not None:
                value = rng.choice((*_NASTY, "0", "1", "7", "0.5", "a"))
                text = text[: place.start()] + value + text[place.end() :]
        elif change == 3:
            text = _broken(rng, text.encode()).decode("latin-1")
        elif change == 4:
            text += rng.choice(
                (_BOMB, "x: " + "[" * 3000, "classes: 3\n", "d: 0001-01-01T99:99:99\n")
            )
        else:
            lines = text.splitlines()
            rng.shuffle(lines)
            text = "\n".join(lines)
    path = folder / name
    path.write_bytes(
        text.encode("utf-8", "replace") if rng.random() < 0.9 else text.encode("utf-16")
    )
    return path


def read_yaml_file(path: Path) -> None:
    """Read a YAML file as what its name says that it is."""
    if path.name == "dataset.yaml":
        _ = TiledDataset(path.parent).description
    else:
        load_scheme(path)


def broken_archive(rng: random.Random, folder: Path, _: Path) -> Path:
    """Write a zip of scenes that was damaged, or that holds names that lead elsewhere."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as file:
        names = ["images/a.tif", "labels/a.tif", "images/b.tif", "labels/b.tif"]
        if rng.random() < 0.5:
            odd = (
                ".",
                "..",
                "/etc/passwd",
                "../x.tif",
                "a\nb.tif",
                "\x1b[31m.tif",
                "C:\\x.tif",
                "a" * 300,
            )
            names[rng.randrange(4)] = rng.choice(odd)
        pixels = {True: _pixels(rng, 3, "uint8"), False: _pixels(rng, 1, "uint8") % 2}
        for name in names:
            content = _geotiff(pixels["images" in name], crs="EPSG:32640")
            if rng.random() < 0.15:
                content = _broken(rng, content)
            file.writestr(name, content)
    content = buffer.getvalue()
    data = bytearray(_broken(rng, content) if rng.random() < 0.3 else content)
    for _ in range(rng.choice((0, 0, 1, 4))):  # the list of members, at the end
        place = max(0, len(data) - 1 - rng.randrange(300))
        if data:
            data[place] = rng.randrange(256)
    path = folder / "broken.zip"
    path.write_bytes(bytes(data))
    return path


def read_archive(path: Path) -> None:
    """Look for scenes in an archive, and read them."""
    scheme = Scheme.model_validate(yaml.safe_load(_SCHEME))
    scenes = labelled_scenes([path], scheme)
    with suppress(HrrsiError):
        look([partial(read_raster, Path(scene.image)) for scene in scenes])
    written = path.with_name("own.yaml")
    written.write_text(_SCHEME)
    options = TileOptions(val_scenes=("b",), size=32, workers=1)
    tile(path, written, path.with_name("dataset"), options=options)


KINDS: dict[str, tuple[Callable[[random.Random, Path, Path], Path], Callable[[Path], None]]] = {
    "rasters": (broken_raster, read_raster),
    "weights": (broken_weights, read_all_weights),
    "yaml": (broken_yaml, read_yaml_file),
    "archives": (broken_archive, read_archive),
    "runs": (partial(broken_run, _broken), read_run),
    "checkpoints": (partial(broken_checkpoint, _broken), read_checkpoint),
    "partial maps": (partial(broken_map, _broken), read_map),
}
