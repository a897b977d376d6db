"""The sandbox: the only place in which model-written code runs.

    box = Sandbox.open()
    ran = box.run("python -m pytest -q", work=folder, limits=Limits(wall=30))
    ran.returncode, ran.stdout, ran.killed_by

It guards against accidents and against agents that cheat for reward, not against kernel exploits;
docs/security.md says what is blocked and what is not.
"""

from .base import Description, Limits, Ran, SandboxFailed
from .box import Sandbox

__all__ = ["Description", "Limits", "Ran", "Sandbox", "SandboxFailed"]
