"""A file is a plugin: a package's modules are its methods, found by listing the folder.

No decorator and no table has to be kept up to date: adding ``distill/csd.py`` is adding ``csd``.
Files that start with an underscore, ``base``, and what the package names in ``SHARED`` hold what
its plugins have in common and are not listed.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def names(package: str) -> list[str]:
    """The plugins of a package, sorted; none of them is imported.

    Args:
        package: dotted name of the package, for example ``"sdstoolkit.solvers"``.
    """
    parent = import_module(package)
    shared = {"base", *getattr(parent, "SHARED", ())}
    found = (module.name for module in iter_modules(parent.__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in shared)


def find(package: str, name: str) -> ModuleType:
    """The module of one plugin, imported now.

    Args:
        package: dotted name of the package.
        name: one of ``names(package)``.

    Raises:
        ValueError: there is no such plugin; the message lists those that exist.
    """
    known = names(package)
    if name not in known:
        choices = ", ".join(known) or "(none)"
        raise ValueError(f"{package} has no {name!r}; choose one of {choices}.")
    return import_module(f"{package}.{name}")
