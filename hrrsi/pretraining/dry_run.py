"""What a pre-training run would be: everything checked, one step tried, nothing written."""

from __future__ import annotations

from dataclasses import replace

import torch

from hrrsi.hardware import chosen_device
from hrrsi.networks.weights_file import ENCODER_WEIGHTS
from hrrsi.pretraining.batches import training_batches, validation_batches
from hrrsi.pretraining.classification import ClassifierTraining
from hrrsi.pretraining.options import PretrainOptions
from hrrsi.pretraining.run import ImageNames, check_pretraining, silent_pillow
from hrrsi.runs.folder import present_run_notes
from hrrsi.runs.options import CONFIG, LAST_CHECKPOINT, run_warnings
from hrrsi.runs.plan import RunPlan, tried
from hrrsi.runs.processes import run_processes

_FILES = (CONFIG, LAST_CHECKPOINT, ENCODER_WEIGHTS, "metrics.csv", "curves.png", "environment.yaml")
_QUARTERS = (1, 0.1, 0.01, 0.001)


def planned_pretraining(
    options: PretrainOptions, *, resume: bool = False, overwrite: bool = False
) -> RunPlan:
    """Return what a run would be, as `hrrsi.training.dry_run.planned_run` does.

    What is tried reads with torchvision, whichever loader the run has.

    Args:
        options: What to train, and how.
        resume: As for `hrrsi.pretraining.run.pretrain`.
        overwrite: Likewise.

    Raises:
        HrrsiError: What `hrrsi.pretraining.run.pretrain` would raise at its start or in a first
            step, but for a run that is there.
    """
    folders, network = check_pretraining(options, resume=resume, overwrite=not resume)
    images, recipe = len(folders.splits["train"]), options.recipe
    notes = [f"warning: {line}" for line in run_warnings(options, images)]
    here = replace(options, workers=0, loader="torchvision")
    device = torch.device(chosen_device(options.device))
    count = run_processes(options).count
    batches = training_batches(folders, here, device, processes=count)
    validation = validation_batches(folders, here, device, processes=count)
    notes += present_run_notes(options, resume=resume, overwrite=overwrite, steps=len(batches))
    steps = recipe.epochs * len(batches)
    names = ImageNames(folders.splits["train"])
    task = ClassifierTraining(network, recipe, steps, names, compiled=options.compile)
    with silent_pillow():
        trial = tried(task, batches, validation, options)
    return RunPlan(
        options=options,
        parameters=sum(p.numel() for p in network.parameters()),
        about=_about(options, len(folders.classes)),
        images=images,
        left_out=0,
        validation_images=len(folders.splits["val"]),
        steps_per_epoch=len(batches),
        trial=trial,
        files=_FILES,
        notes=notes,
    )


def _about(options: PretrainOptions, classes: int) -> dict[str, str]:
    recipe = options.recipe
    rates = ", ".join(f"{recipe.lr * share:.4g}" for share in _QUARTERS)
    return {
        "starts from": "random weights",
        "recipe": recipe.described,
        "optimiser": f"sgd, learning rate {rates} in a quarter of the steps each, momentum "
        f"{recipe.momentum:g}, weight decay {recipe.weight_decay:g}",
        "losses": f"cross-entropy of {classes} classes, label smoothing {recipe.label_smoothing:g}",
        "seen as": f"random crops of {recipe.size} px, validated on centres of "
        f"{recipe.val_size} px; read by {options.loader}",
    }
