"""Very-high-resolution orthophotos to land-cover maps with networks of some 3 M parameters.

The nouns and verbs are those of the command line. Nothing is imported before it is used: torch and
GDAL take seconds, and much of what is here needs neither. What an extra of the installation brings
is asked for by the call that needs it (`DependencyError`), so that everything can be named without.
The names stand in `__init__.pyi`, for this module and for type checkers.
"""

from typing import Any

import lazy_loader

_loaded, _names, _ = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*_names(), "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes longer than all the rest

        return metadata.version("hrrsi")
    if name not in __all__:
        raise AttributeError(f"module 'hrrsi' has no attribute {name!r}")
    return _loaded(name)


def __dir__() -> list[str]:
    return __all__
