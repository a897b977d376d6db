"""Engines: the backends that turn a conversation into text."""
