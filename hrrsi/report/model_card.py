"""What a network is and costs, for the report's model card."""

from __future__ import annotations

from pathlib import Path


def model_card(weights: Path, *, latency: bool = True) -> tuple[tuple[str, str], ...]:
    """Return labels and texts: what the weights say of themselves, operations and speed.

    Takes seconds: the network is built, and run in a process of its own.

    Args:
        weights: The weights file.
        latency: Whether its speed on this machine is measured.

    Raises:
        HrrsiError: Not a weights file, or the memory does not hold the network.
    """
    from hrrsi.file_info import file_info
    from hrrsi.profiling.latency import weights_latency
    from hrrsi.profiling.profile import profile_weights

    profile = profile_weights(weights)
    costs = [
        (
            "operations",
            f"{2 * profile.operations.macs / 1e9:.2f} GFLOPs for a window of {profile.size} px "
            f"({profile.operations.macs / 1e9:.2f} G multiply-accumulates; "
            f"{profile.operations.published / 1e9:.2f} G as the published tables count)",
        )
    ]
    if latency:
        found = weights_latency(weights)
        costs.append(
            (
                "latency of hrrsi predict",
                f"{found.milliseconds:.1f} ms for a window of {profile.size} px, "
                f"{found.megapixels_per_second:.1f} Mpx/s ({found.engine}, {found.device}), "
                "measured with this page; the scores may have been taken in another precision",
            )
        )
    first, *rest = file_info(weights).lines
    return (first, *costs, *rest)
