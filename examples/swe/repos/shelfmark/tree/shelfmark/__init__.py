"""Call numbers and their order on the shelf."""

from .order import shelf_key, shelved
from .parse import CallNumber, parse

__all__ = ["CallNumber", "parse", "shelf_key", "shelved"]
