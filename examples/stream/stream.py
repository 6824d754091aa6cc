"""Frames in, maps out: an exported network on ONNX Runtime, without hrrsi.

    python stream.py landcover.onnx frames/ maps/

It needs onnxruntime, numpy and pillow. `README.md` beside it says what it does with frames.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # which begins when it is imported
import onnxruntime

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm", ".webp"}


class Network:
    """A network that `hrrsi export` wrote, and what it says of itself.

    Args:
        path: The ONNX file.
        threads: Processor threads; 0 for all.
    """

    def __init__(self, path: Path, threads: int) -> None:
        if not path.is_file():
            raise SystemExit(f"error: {path}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's own, which have no common base
            reason = str(error).splitlines()[0]
            raise SystemExit(f"error: {path}: ONNX Runtime can't read it ({reason})") from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            about = {key: json.loads(v) for key, v in json.loads(metadata["hrrsi"]).items()}
            overlap = json.loads(metadata["tiles_overlap"]) / 100
            self.classes: list[str] = about["classes"]
            self.colours: list[list[int]] = about["colours"]
            self._bands = [band - 1 for band in about["bands"]]
            is_of_pictures = sorted(self._bands) == [0, 1, 2] and about["dtype"] == "uint8"
        except (KeyError, TypeError, ValueError, AttributeError):
            raise SystemExit(f"error: {path}: is not a file of hrrsi export") from None
        if not is_of_pictures or about.get("height") is not None:
            raise SystemExit(f"error: {path}: its network sees other bands than pictures have")
        (self._input,), (self._output,) = (
            [value.name for value in values]
            for values in (self._session.get_inputs(), self._session.get_outputs())
        )
        self.window: int = self._session.get_inputs()[0].shape[-1]
        self.overlap = round(overlap * self.window)
        self.labels(np.zeros((self.window, self.window, 3), np.uint8))  # a warm-up

    def labels(self, frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the class of each pixel, (height, width) uint8.

        Args:
            frame: (height, width, 3) uint8.
        """
        height, width = frame.shape[:2]
        lacking = [(0, max(0, self.window - length)) for length in (height, width)]
        padded = np.pad(frame[..., self._bands], (*lacking, (0, 0)), mode="symmetric")
        labels = np.empty(padded.shape[:2], np.uint8)
        for rows in spans(padded.shape[0], self.window, self.overlap):
            for columns in spans(padded.shape[1], self.window, self.overlap):
                window = padded[rows[0] : rows[0] + self.window, columns[0] :][:, : self.window]
                pixels = window.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
                (output,) = self._session.run([self._output], {self._input: pixels})
                classes = output[0].argmax(axis=0)
                (top, bottom), (left, right) = rows[1:], columns[1:]
                kept = classes[top - rows[0] : bottom - rows[0], left - columns[0] :]
                labels[top:bottom, left:right] = kept[:, : right - left]
        return labels[:height, :width]


def spans(length: int, window: int, overlap: int) -> list[tuple[int, int, int]]:
    """Return where windows start along an axis, and which pixels are taken from each.

    Args:
        length: Pixels along the axis, at least `window`.
        window: Pixels of a window; the last one ends at the edge.
        overlap: Pixels that neighbours share, or more; each gives up to the middle of them.
    """
    starts = [*range(0, length - window, window - overlap), length - window]
    joints = [(start + window + after) // 2 for start, after in pairwise(starts)]
    return list(zip(starts, [0, *joints], [*joints, length], strict=True))


def frames_in(place: Path) -> list[Path]:
    """Return the pictures of a folder by their names, or the one that is named."""
    if not place.exists():
        raise SystemExit(f"error: {place}: no such file or folder")
    if place.is_file():
        return [place]
    frames = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    if not frames:
        raise SystemExit(f"error: {place}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return frames


def read(path: Path) -> np.ndarray[Any, Any]:
    """Return a frame, (height, width, 3) uint8."""
    try:
        with Image.open(path) as picture:
            # Pillow makes 8 bits of the 16 of some formats, which turns frames of 12 bits dark
            is_deep = any(
                ";16" in str(tile.args) or ("ppm" in tile.codec_name and tile.args[-1] > 255)
                for tile in picture.tile
            )
            if is_deep or picture.mode not in ("RGB", "RGBA", "RGBX", "P", "L", "CMYK", "YCbCr"):
                raise SystemExit(f"error: {path}: holds other pixels than of 8 bits a colour")
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SystemExit(f"error: {path}: is not a readable picture ({error})") from None


def write(labels: np.ndarray[Any, Any], colours: Sequence[Sequence[int]], path: Path) -> None:
    """Write a map as PNG, whose pixels are classes in their colours."""
    picture = Image.fromarray(labels)
    picture.putpalette([value for colour in colours for value in colour])
    part = path.with_name(f".{path.name}.part")
    picture.save(part, "PNG")
    part.replace(path)


def timed_maps(network: Network, frames: Sequence[Path]) -> Iterator[tuple[Path, Any, float]]:
    """Yield each frame, its labels and the seconds from its pixels to them."""
    for path in frames:
        frame = read(path)
        started = time.perf_counter()
        labels = network.labels(frame)
        yield path, labels, time.perf_counter() - started


def main() -> None:
    """Map frames, and say how fast that was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", type=Path, help="an ONNX file of hrrsi export or quantize")
    parser.add_argument("frames", type=Path, help="a folder of pictures, or one of them")
    parser.add_argument("maps", type=Path, help="the folder for maps, a PNG a frame")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0: all")
    parser.add_argument("--overwrite", action="store_true", help="replace maps that exist")
    options = parser.parse_args()
    if options.threads < 0:
        parser.error(f"{options.threads} threads can't compute")
    frames = frames_in(options.frames)
    outputs = {path: options.maps / f"{path.stem}.png" for path in frames}
    if len(set(outputs.values())) < len(outputs):
        raise SystemExit(f"error: {options.frames}: two frames differ in their endings only")
    for path, output in outputs.items():
        if output.exists() and (not options.overwrite or output.samefile(path)):
            raise SystemExit(f"error: {output}: exists; give --overwrite, or another folder")
    network = Network(options.network, options.threads)
    options.maps.mkdir(parents=True, exist_ok=True)
    seconds, counts, began = [], np.zeros(len(network.classes), int), time.perf_counter()
    for path, labels, time_taken in timed_maps(network, frames):
        write(labels, network.colours, outputs[path])
        seconds.append(time_taken)
        counts += np.bincount(labels.ravel(), minlength=len(counts))
    rate = len(frames) / (time.perf_counter() - began)
    p50, p99 = 1e3 * np.percentile(seconds, (50, 99))
    print(f"{len(frames)} frames, {rate:.2f} frames/s with reading and writing")
    print(f"pixels to map: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for name, count in zip(network.classes, counts, strict=True):
        print(f"{name}: {count / counts.sum():.2%}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the maps that were written are whole")
