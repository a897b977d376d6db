"""Angles and courses."""
