"""Finding a generator, a modality or a source: the module of that name in its package. There is no list to edit."""

import importlib
import pkgutil
from types import ModuleType


class UnknownPluginError(LookupError):
    """No module of that name; `known` holds the names there are, `hint` what the package says beside."""

    def __init__(self, package: str, name: str) -> None:
        self.known = names(package)
        self.noun = package.rpartition(".")[2]
        self.hint = getattr(importlib.import_module(package), "HINT", "")
        super().__init__(f"'{name}'; known {self.noun}: {', '.join(self.known)}")


def names(package: str) -> list[str]:
    """The modules of `package`, sorted; private ones are left out."""
    folders = importlib.import_module(package).__path__
    return sorted(found.name for found in pkgutil.iter_modules(folders) if not found.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """The module `name` of `package`. Raises UnknownPluginError, which names what there is."""
    if name not in names(package):
        raise UnknownPluginError(package, name)
    return importlib.import_module(f"{package}.{name}")
