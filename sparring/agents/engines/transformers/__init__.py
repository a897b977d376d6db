"""The embedded engine: Hugging Face models, batched continuously, with LoRA adapters per request.

Importing this package is cheap; torch and transformers load with the first model.
"""

from sparring.agents.engines.base import ContextExceeded
from sparring.agents.engines.transformers.engine import TransformersEngine

__all__ = ["ContextExceeded", "TransformersEngine"]
