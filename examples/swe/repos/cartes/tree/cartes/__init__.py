"""Menus from CSV files."""

from .lecteur import lire
from .légende import ligne, page

__all__ = ["ligne", "lire", "page"]
