"""Classes of one's own, by `module:Class`: a protocol, a reward function, a scorer.

    sparring play wager:Wager --tasks demo --engine smollm2-135m

A run keeps that text and finds the class by it again, in `resume` and `report` as in `play`. Modules are
looked for where Python looks, and last in the working folder, which a command's own folder would not be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from sparring.errors import SparringError, UserError, unknown
from sparring.tools.modules import own_module

_KEPT_OUT: ContextVar[bool] = ContextVar("kept_out", default=False)


@contextmanager
def kept_out(whether: bool = True) -> Iterator[None]:
    """While it lasts no module is imported because of its name: whoever wrote a journal chose those in it,
    and a module runs when it is imported. What is imported already, and what Sparring ships, is found."""
    token = _KEPT_OUT.set(whether)
    try:
        yield
    finally:
        _KEPT_OUT.reset(token)


def find_class(spec: str, base: type[Any], what: str) -> type[Any]:
    """The subclass of `base` that `module:Class` names.

    Args:
        what: for the messages: "protocol".

    Raises:
        UserError: no such module or class (those that the module has are listed), a module that fails while
            it is imported, or a class that is no subclass of `base` or not a whole one.
    """
    place, _, name = spec.partition(":")
    if place.endswith(".py") or "/" in place or place.startswith("."):
        dotted = ".".join(Path(place.removesuffix(".py")).parts).lstrip("./")
        raise UserError(f"{what} `{spec}`: write the module, not its file: `{dotted}:{name}`")
    module = _module(place, f"{what} `{spec}`")
    kind = getattr(module, name, None)
    if kind is None:
        raise unknown(f"{what} of module `{place}`", name, _subclasses(module, base))
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(f"{what} `{spec}` is no subclass of `{base.__module__}.{base.__name__}`")
    missing = [part for part in _names(base) if not isinstance(getattr(kind, part, None), str)]
    missing += sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{what} `{spec}` does not define {', '.join(missing)}")
    return kind


def spec_of(kind: type[Any]) -> str:
    """What finds a class again, in another process too: `module:Class`, of a script by its path from here.

    Raises:
        UserError: it is in no module, as what is typed in a session or stands within a function.
    """
    module = kind.__module__
    if module == "__main__":
        module = _script(kind)
    if "." in kind.__qualname__:
        raise UserError(f"`{kind.__qualname__}` cannot be found again by name: define it at a module's top")
    return f"{module}:{kind.__name__}"


def _script(kind: type[Any]) -> str:
    """The name by which the running script can be imported from the working folder."""
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if file is None or not Path(file).is_file():
        raise UserError(f"`{kind.__name__}` cannot be found again by name: put it into a file and import it")
    path, here = Path(file).absolute().with_suffix(""), Path.cwd()
    parts = path.relative_to(here).parts if path.is_relative_to(here) else (path.name,)
    name = ".".join(parts) if all(part.isidentifier() for part in parts) else path.name
    sys.modules.setdefault(name, main)  # the script itself: imported again it would run a second time
    return name


def _module(name: str, which: str) -> ModuleType:
    if _KEPT_OUT.get() and name not in sys.modules and name.partition(".")[0] != "sparring":
        raise UserError(f"{which} is not imported: a journal names it, and it would run")
    try:
        return own_module(name)
    except Exception as error:  # a user's module can fail in any way while it is imported
        lacking = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        if lacking or not name:
            hint = f"there is no module `{name}`, neither installed nor in {Path.cwd()}"
            raise UserError(f"{which} cannot be imported: {hint}; go to the folder it lies in") from None
        said = " ".join(f"{type(error).__name__}: {error}".split())
        guard = "; what a script does when it is run belongs below `if __name__ == '__main__':`"
        hint = guard if isinstance(error, SparringError) else ""
        raise UserError(f"{which} cannot be imported ({said}){hint}") from error


def _subclasses(module: ModuleType, base: type[Any]) -> list[str]:
    found = (kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base))
    return [kind.__name__ for kind in found if kind.__module__ == module.__name__]


def _names(base: type[Any]) -> list[str]:
    """The class variables that a subclass has to set: those that its base only declares."""
    return [name for name in ("name", "version", "kind") if name in _declared(base)]


def _declared(base: type[Any]) -> set[str]:
    return {name for name in vars(base).get("__annotations__", {}) if name not in vars(base)}
