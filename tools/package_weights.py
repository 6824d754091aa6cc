"""Makes the weights inside the package from a run: half precision, test scores, terms of use.

    python tools/package_weights.py runs/ued_bes_sfm/best.safetensors scores.json

where ``scores.json`` is what ``hrrsi eval RAW --scheme dubai --split standard:test --json`` wrote
for the same weights. ``--name light`` makes the light ones; ``--purpose`` says what they are for.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_file import PACKAGED_FILES, PACKAGED_FOLDER
from hrrsi.networks.weights_reading import load_model

LICENCE = (
    "Weights: MIT. Trained on: NAIP (US public domain) as collected by Ventura et al. 2024, "
    "urban-tree-detection-data, CC BY 4.0; OpenAerialMap imagery of its contributors, CC BY 4.0, "
    "with outlines of OpenStreetMap contributors, ODbL; UC Merced Land Use (USGS, US public "
    "domain; Yang and Newsam 2010), labels of Chaudhuri et al. 2018; 'Semantic segmentation of "
    "aerial imagery' of Dubai by Humans in the Loop with the Mohammed Bin Rashid Space Centre "
    "(MBRSC), published as CC0, one derivative CC BY 4.0. The default weights' encoder began with "
    "EfficientNet-Lite's ImageNet weights, Apache-2.0."
)
# whose scenes others may score weights on, under these names
PUBLISHED_DATA = "dubai/"


def main() -> None:
    """Write the packaged weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--name", choices=list(PACKAGED_FILES), default="default")
    parser.add_argument("--places", help="instead of thousands of scenes, e.g. 'Dubai, Uganda'")
    parser.add_argument("--purpose", help="e.g. 'buildings and vegetation at 0.1 to 0.6 m'")
    arguments = parser.parse_args()
    network = load_model(arguments.weights)
    evaluated = json.loads(arguments.scores.read_text())
    figures = {k: evaluated["scores"][k] for k in ("OA", "mF1", "mIoU")}
    sentence = evaluated["protocol"]["sentence"]
    # a name says enough to others; where the file lay on this machine does not
    sentence = sentence.replace(str(arguments.weights), arguments.weights.name)
    scores = {
        **network.meta.scores,
        "test": {
            "protocol": sentence,
            "scenes": evaluated["protocol"]["scenes"],
            **figures,
            "IoU": {c["name"]: c["IoU"] for c in evaluated["classes"]},
        },
    }
    training = dict(network.meta.training)
    if arguments.places:
        scenes = [s for s in training["scenes"] if s.startswith(PUBLISHED_DATA)]
        training |= {"places": arguments.places.split(", "), "scenes": scenes}
    meta = replace(
        network.meta,
        band_meanings=["red", "green", "blue"],
        training=training,
        scores=scores,
        licence=LICENCE,
        purpose=arguments.purpose,
    )
    path = PACKAGED_FOLDER / PACKAGED_FILES[arguments.name]
    save_weights(network.state_dict(), meta, path, half=True)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
