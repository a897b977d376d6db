"""Tide tables and the water levels between them."""

from .level import level
from .table import Tide, clock, minutes, read

__all__ = ["Tide", "clock", "level", "minutes", "read"]
