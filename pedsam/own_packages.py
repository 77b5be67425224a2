"""Whether Python finds pedsam's own packages, whose plain names other distributions may have too.

Nothing of those packages is imported here, for it may be another's.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

# What each package imports, itself included.
NEEDED = {
    "stages": ("stages",),
    "media": ("stages", "media"),
    "export": ("stages", "media", "export"),
    "training": ("stages", "media", "export", "training"),
    "server": ("stages", "server"),
    "runtime": ("stages", "media", "runtime"),
    "jetson": ("stages", "export", "jetson"),
    "evaluation": ("stages", "media", "export", "training", "runtime", "evaluation"),
}
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # which holds them all
_ADVICE = "install pedsam into an environment of its own (python3 -m venv)"


class Shadowed(ImportError):
    """Python finds a package of another distribution; the text is one sentence for a person."""


def check_own(package: str) -> None:
    """Raise Shadowed where this package, or one that it imports, is another's."""
    for name in NEEDED.get(package, ()):
        if (place := _place_of_another(name)) is not None:
            raise Shadowed(
                f"Python finds the package {name} in {place}, which is not the one of pedsam in {_FOLDER}: "
                f"{_ADVICE}, and use it where no folder of that name comes first, as by PYTHONPATH",
                name=name,
            )


def _place_of_another(name: str) -> str | None:
    """Where a package lies that is not pedsam's; None where it is, or where there is none."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else ())]
    own = os.path.realpath(os.path.join(_FOLDER, name))
    return None if any(os.path.realpath(place) == own for place in places) else places[0]


def mixed(exc: Exception) -> str | None:
    """A sentence about an import that failed where files of another distribution lie in a package of pedsam;
    None where it failed for want of something else."""
    if not isinstance(exc, ImportError | AttributeError):
        return None
    package = _package_without(exc)
    if isinstance(exc, ModuleNotFoundError) and package is None:
        return None
    for name, others in _packages_of_others().items():
        return (
            f"{' and '.join(sorted(others))} has files in the package {name} too, of which pedsam's are in "
            f"{os.path.join(_FOLDER, name)}: {_ADVICE}"
        )
    if package is None:
        return None
    return (
        f"the package {package} in {os.path.join(_FOLDER, package)} is not as pedsam has it ({exc}), as "
        f"where another distribution has put files in it: {_ADVICE}"
    )


def _package_without(exc: ImportError | AttributeError) -> str | None:
    """Which package of pedsam lacks what was imported of it; None where it was of another package."""
    module = exc.name if isinstance(exc, ImportError) else getattr(exc.obj, "__name__", None)
    package = str(module).partition(".")[0]
    return package if package in NEEDED else None


def _packages_of_others() -> dict[str, set[str]]:
    """The packages of pedsam into which other distributions were installed, with their names."""
    from importlib.metadata import distributions  # it reads about every distribution there is

    found: dict[str, set[str]] = {}
    for distribution in distributions():
        owner = distribution.metadata["Name"]
        for name in {path.parts[0] for path in distribution.files or ()}:
            if name in NEEDED and str(owner).lower() != "pedsam":
                found.setdefault(name, set()).add(owner)
    return found
