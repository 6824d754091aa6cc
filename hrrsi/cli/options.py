"""Options of commands: option classes as flags, and those that several subcommands share.

A command takes whole option classes: their fields become flags, their defaults defaults.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from hrrsi.cli.messages import in_flags
from hrrsi.errors import OptionError
from hrrsi.prediction.options import SMALLEST_BATCH, SMALLEST_WINDOW
from hrrsi.quantities import names_text

NETWORK_PANEL = "Windows and network"

DEVICE_HELP = "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."
DRY_RUN_HELP = (  # of a run
    "Check everything, try a step and say what the run would be; write nothing. A run that is "
    "there is no error here: what --resume and --overwrite would do is said."
)

_OVERWRITE = typer.Option("--overwrite", help="Replace outputs that exist already.")
Overwrite = Annotated[bool, _OVERWRITE]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="A .safetensors of hrrsi, a published .pth checkpoint, an exported network (.onnx, or "
        "OpenVINO's .xml), or the name of weights inside "
        "the package: default or, where there are such, light (fewer operations).",
    ),
]
NetworkWeights = Annotated[  # of commands that make something of a network
    Path | None,
    typer.Argument(
        help="A weights file; or default, which it is by default, or light: the package's.",
        show_default=False,
    ),
]
ExportedFile = Annotated[
    Path, typer.Option("--out", "-o", help="The file: .onnx, or .xml for OpenVINO.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Let workers of a Dask cluster work on whole scenes, with the same results to the "
        "last byte: tcp://HOST:8786 of its scheduler, a scheduler file (.json), or local:4 for "
        "four processes of this machine.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, only results.")]


LAYER_HELP = (
    "Layer of vector files that can hold several, such as GeoPackages, for each that is given "
    "without one of its own ('areas.gpkg|layername=NAME')."
)
Layer = Annotated[str | None, typer.Option("--layer", help=LAYER_HELP)]
_LAYERLESS = frozenset({".geojson", ".json", ".shp", ".fgb"})  # vector formats


@dataclass(frozen=True)
class Flag:
    """How a field of an option class is given on the command line.

    Attributes:
        option: What ``typer.Option`` returned for it.
        kind: The type that the flag takes, where it is not the field's, e.g. `str` for a list of
            numbers separated by commas.
        value: Makes the field's value of what was given, where that isn't it yet.
        is_usage: Whether a value that the class refuses is wrong usage (exit code 2), as one that
            typer refuses.
        default: The flag's default, where it is not the field's.
    """

    option: Any
    kind: Any = None
    value: Callable[[Any], Any] | None = None
    is_usage: bool = False
    default: Any = None


Flags = Mapping[str, Flag]


@dataclass(frozen=True)
class FieldValues:
    """Asks for values of fields of an option class, by their names, instead of an instance.

    For classes that a command can only make of more than its flags.

    Attributes:
        kind: The class.
        flags: How its fields are given.
        explicit_only: Whether values that are not given are left out, where they would be defaults.
    """

    kind: type
    flags: Flags
    explicit_only: bool = False


def takes_option_classes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command whose option classes are given flag by flag.

    A parameter annotated ``Annotated[OptionClass, FLAGS]``, of a frozen dataclass and a mapping
    from names of its fields to `Flag`, becomes as many parameters as the mapping has; the command
    gets an instance made of them. Fields that the mapping lacks, and flags that are not given,
    keep the class' default. A parameter annotated ``Annotated[dict[str, Any], FieldValues(...)]``
    likewise gets the values of the fields.

    Args:
        command: A function for typer, which may have other parameters too.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    classes: dict[str, tuple[type, Flags]] = {}
    fields: dict[str, FieldValues] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        request = next((m for m in get_args(hint)[1:] if isinstance(m, FieldValues)), None)
        if request is not None:
            fields[parameter.name] = request
            flagged = _fields_as_parameters(request.kind, request.flags)
            parameters += map(_optional, flagged) if request.explicit_only else flagged
            continue
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(annotation=hint))
            continue
        assert isinstance(kind, type)
        flags = get_args(hint)[1]
        classes[parameter.name] = kind, flags
        parameters += _fields_as_parameters(kind, flags)
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]

    @wraps(command)
    def with_classes(**arguments: Any) -> Any:
        for name, (kind, flags) in classes.items():
            values = {field: arguments.pop(field) for field in flags}
            arguments[name] = _instance(kind, flags, values)
        for name, request in fields.items():
            values = {field: arguments.pop(field) for field in request.flags}
            lists = {f.name for f in dataclasses.fields(request.kind) if f.default == ()}
            arguments[name] = {
                field: _converted(request.flags[field], value)
                for field, value in values.items()
                if value is not None or not (request.explicit_only or field in lists)
            }
        return command(**arguments)

    # what typer reads; functions have no such attribute to mypy
    with_classes.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    with_classes.__annotations__ = {p.name: p.annotation for p in keyword_only}
    del with_classes.__wrapped__  # typer would look through it at the command's own parameters
    return with_classes


def _fields_as_parameters(kind: type, flags: Flags) -> list[inspect.Parameter]:
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    parameters = []
    for name, flag in flags.items():
        default = fields[name].default if flag.default is None else flag.default
        if default == ():
            default = None  # a flag that can be given several times, or a list in one text
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
                annotation=Annotated[flag.kind or hints[name], flag.option],
            )
        )
    return parameters


def _optional(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, *options = get_args(parameter.annotation)
    return parameter.replace(default=None, annotation=Annotated[kind | None, *options])


def _converted(flag: Flag, value: Any) -> Any:
    return value if value is None or flag.value is None else flag.value(value)


def _instance(kind: type, flags: Flags, values: Mapping[str, Any]) -> Any:
    fields = {k: _converted(flags[k], value) for k, value in values.items() if value is not None}
    try:
        return kind(**fields)
    except OptionError as error:
        flag = flags.get(error.parameter or "")
        if flag is None or not flag.is_usage:
            raise
        raise typer.BadParameter(
            in_flags(error.what), param_hint=in_flags(str(error.where))
        ) from error


def with_layers(layers: Sequence[str], *inputs: Sequence[str | Path]) -> list[list[Path]]:
    """Return the files of inputs with the layer that ``--layer`` chooses of each.

    Args:
        layers: What was given as ``--layer``; a file with several stands once for each.
        inputs: The vector files, and rasters, of each input.

    Raises:
        typer.BadParameter: None of the files can hold several layers.
    """
    files = [Path(file) for paths in inputs for file in paths]
    layered = {file for file in files if layers and "|" not in file.name and _holds_layers(file)}
    if layers and not layered:
        examples = f" ({names_text([str(file) for file in files], most=3)})" if files else ""
        raise typer.BadParameter(
            f"is for files that can hold several layers, and none is given{examples}",
            param_hint="--layer",
        )
    return [
        [
            Path(f"{file}|layername={layer}") if layer else Path(file)
            for file in paths
            for layer in (layers if Path(file) in layered else [""])
        ]
        for paths in inputs
    ]


def file_list(file: str | Path | None) -> list[str | Path]:
    """Return a file as the only one of an input, or none."""
    return [] if file is None else [file]


def _holds_layers(file: Path) -> bool:
    from hrrsi.scenes.raster_opening import RASTER_SUFFIXES

    suffix = file.suffix.lower()
    if file.is_dir():
        return suffix == ".gdb"
    return suffix not in _LAYERLESS | RASTER_SUFFIXES


def names(text: str | None) -> list[str]:
    """Return the names of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _bands(text: str) -> list[int]:
    """Return the numbers of ``--bands``.

    Raises:
        typer.BadParameter: The text is no list of numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list such as 1,2,3", param_hint="--bands"
        ) from None


# Of `OutputOptions` and `ReportOutputs`.
OVERWRITE_FLAG = Flag(_OVERWRITE)


def _resolution(text: str) -> float | str:
    """Return the value of ``--resample``.

    Raises:
        typer.BadParameter: The text is neither one of the words nor a number.
    """
    if text in ("auto", "off"):
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither auto nor off nor a number of metres", param_hint="--resample"
        ) from None


def _nodata(text: str) -> float | str:
    """Return the value of ``--nodata``.

    Raises:
        typer.BadParameter: The text is neither auto nor a number.
    """
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither auto nor a number", param_hint="--nodata"
        ) from None


# Flags of `MapOptions` that several commands have.
READING_FLAGS: Flags = {
    "bands": Flag(
        typer.Option("--bands", help="Bands of the raster to read, from 1, e.g. 4,1,2."),
        str | None,
        _bands,
    ),
    "nodata": Flag(
        typer.Option(
            "--nodata",
            metavar="VALUE|auto",
            help="Value of pixels without data, where the raster does not say so itself "
            "(all bands must hold it), e.g. 0 for black corners. auto: the one that collars, empty "
            "blocks and marks such as -9999 hold. Where compression is lossy, a rim of nearly that "
            "value goes too.",
        ),
        str | None,
        _nodata,
    ),
    "crs": Flag(
        typer.Option(
            "--crs",
            help="Coordinate system of scenes that hold none, e.g. EPSG:25832. Without it, a .prj "
            "file beside a scene with a world file counts.",
        ),
        str | None,
    ),
    "resample": Flag(
        typer.Option(
            "--resample",
            metavar="auto|off|METRES",
            help="Ground resolution to read scenes at, in metres a pixel; maps keep the scenes' "
            "grid. auto: the scene's own, or the nearest of the weights' training where it is "
            "outside of them; pixels that are no squares on the ground (degrees) as squares. off: "
            "the scene's own.",
        ),
        str,
        _resolution,
        is_usage=True,
    ),
    "height": Flag(
        typer.Option(
            "--height",
            help="Height models (DSM, nDSM) as the last band: one raster, a folder of rasters "
            "named like the scenes, or a template such as 'dsm/dsm_{}.tif' whose {} stands for "
            "the scene's name or number.",
        ),
        str | None,
    ),
}
WINDOW_FLAGS: Flags = {
    "window": Flag(
        typer.Option(
            "--window",
            min=SMALLEST_WINDOW,
            help="Rows and columns of a window, in pixels. Default: 512, or those that an exported "
            "network takes.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "overlap": Flag(
        typer.Option(
            "--overlap",
            help="Pixels that neighbouring windows share. Default: 3/16 of a window, 96 of 512.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
}
# Flags of `EngineOptions`.
ENGINE_FLAGS: Flags = {
    "engine": Flag(
        typer.Option(
            "--engine",
            help="auto, openvino, onnxruntime or torch; auto is openvino, and torch on a GPU and "
            "for networks on other encoders than GhostNet and tf_efficientnet_lite0 to 4.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "precision": Flag(
        typer.Option(
            "--precision",
            help="auto, 32, bf16, 16 or fast; auto is bf16 where the hardware calculates in it "
            "(torch: on a GPU only), else 32; fast rounds more of the network.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "device": Flag(typer.Option("--device", help=DEVICE_HELP)),
    "threads": Flag(
        typer.Option(
            "--threads",
            help="Processor threads. Default: one a core.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "batch": Flag(
        typer.Option(
            "--batch",
            min=SMALLEST_BATCH,
            help="Windows a step. Default: 1 on a CPU, 8 on a GPU.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
}
