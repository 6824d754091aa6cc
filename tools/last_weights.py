"""Writes the weights that a run of `hrrsi train` had after its last epoch, whatever their score.

    python tools/last_weights.py runs/third/ued-tf_efficientnet_lite0 --out third.safetensors

A run keeps those of the epoch that its validation patches like best. Where these are few, or not
what the weights are for, whole scenes may choose otherwise (the packaged weights' model card).
"""

import argparse
from dataclasses import replace
from pathlib import Path

from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.runs.folder import checkpoint_position, read_checkpoint

# a network's average of the weights where its recipe has one, else the weights themselves
PREFIXES = ("averaged_network.", "network.")


def main() -> None:
    """Write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    epoch = write_last_weights(arguments.run, arguments.out)
    print(f"{arguments.out}: epoch {epoch}")


def write_last_weights(run: Path, path: Path) -> int:
    """Write the weights of a run's last checkpoint, and return its epoch."""
    best = load_model(run / "best.safetensors")
    checkpoint = read_checkpoint(run / "last.ckpt")
    epoch = checkpoint_position(checkpoint).epoch
    state = checkpoint["state_dict"]
    prefix = next(each for each in PREFIXES if any(key.startswith(each) for key in state))
    tensors = {key: state[prefix + key] for key in best.state_dict()}
    training = dict(best.meta.training)
    training["images_seen"] = training["images_seen"] * epoch // training["epoch"]
    training["epoch"] = epoch
    save_weights(tensors, replace(best.meta, scores={}, training=training), path)
    return epoch


if __name__ == "__main__":
    main()
