"""Classes of a user's own, named as `module:Class` where a shipped one would have its name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparring.errors import UserError


def own_class(where: str, base: type[Any], what: str, attributes: tuple[str, ...] = ("name",)) -> type[Any]:
    """The class at `module:Class`, which must be a finished subclass of `base`.

    Args:
        what: How messages call it, such as "scorer `mine:Length`".
        attributes: Texts that the class has to define.

    Raises:
        UserError: it cannot be imported, is something else, or leaves something undefined.
    """
    module, _, attribute = where.partition(":")
    try:
        kind = getattr(import_module(module), attribute)
    except Exception as error:  # a user's module can fail in any way while it is imported
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{what} cannot be imported ({said})") from None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(f"{what} is no subclass of `{base.__module__}.{base.__qualname__}`")
    missing = [name for name in attributes if not isinstance(getattr(kind, name, None), str)]
    missing += sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{what} does not define {', '.join(missing)}")
    return kind
