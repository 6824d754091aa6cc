"""Writes the mean of two weights of one network, tensor by tensor.

    python tools/mean_weights.py second.safetensors third.safetensors --out mean.safetensors

One of them went on from the other, so that both lie in one valley of the loss (Wortsman et al.
2022, "Model soups"). The second one's metadata is kept, normalisation included, but for its scores,
which the mean does not have.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model


def main() -> None:
    """Write the mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, nargs=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    first, second = (load_model(path) for path in arguments.weights)
    if first.meta.model != second.meta.model or first.meta.classes != second.meta.classes:
        raise SystemExit(f"{arguments.weights[0]}: another network or other classes")
    other = first.state_dict()
    mean = {
        name: (tensor + other[name]) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in second.state_dict().items()
    }
    training = {key: value for key, value in second.meta.training.items() if key != "epoch"}
    training["mean_of"] = [path.name for path in arguments.weights]
    save_weights(mean, replace(second.meta, scores={}, training=training), arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
