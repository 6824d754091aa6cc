"""Commands that take whole option classes: their fields become flags, their defaults defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Flag:
    """How a field of an option class is given on the command line.

    Attributes:
        option: What ``typer.Option`` returned for it.
        kind: The type that the flag takes, where it is not the field's, e.g. `str` for a list of
            numbers separated by commas.
        value: Makes the field's value of what was given, where that isn't it yet.
    """

    option: Any
    kind: Any = None
    value: Callable[[Any], Any] | None = None


Flags = Mapping[str, Flag]


def takes_option_classes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command whose option classes are given flag by flag.

    A parameter annotated ``Annotated[OptionClass, FLAGS]``, of a frozen dataclass and a mapping
    from names of its fields to `Flag`, becomes as many parameters as the mapping has; the command
    gets an instance made of them. Fields that the mapping lacks keep the class' default.

    Args:
        command: A function for typer, which may have other parameters too.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    classes: dict[str, tuple[type, Flags]] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
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
    def with_classes(**given: Any) -> Any:
        for name, (kind, flags) in classes.items():
            values = {field: given.pop(field) for field in flags}
            given[name] = kind(**{f: _value(flags[f], v) for f, v in values.items()})
        return command(**given)

    with_classes.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    with_classes.__annotations__ = {p.name: p.annotation for p in keyword_only}
    del with_classes.__wrapped__  # typer would look through it at the command's own parameters
    return with_classes


def _fields_as_parameters(kind: type, flags: Flags) -> list[inspect.Parameter]:
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    made = []
    for name, flag in flags.items():
        default = fields[name].default
        made.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
                annotation=Annotated[flag.kind or hints[name], flag.option],
            )
        )
    return made


def _value(flag: Flag, given: Any) -> Any:
    return given if flag.value is None or given is None else flag.value(given)
