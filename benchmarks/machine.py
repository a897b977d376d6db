"""On what a table of figures was measured: date, machine, load, versions."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VLLM = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
"""vLLM's own environment, where there is one."""
PACKAGES = ("torch", "transformers", "langgraph")
_ASK = """
import json
from importlib.metadata import packages_distributions, version
names = [*packages_distributions().get("vllm", []), "torch", "transformers"]
print(json.dumps({name: version(name) for name in dict.fromkeys(names)}))
"""


def described() -> str:
    """A sentence or two, for the top of a table; the load is that of this moment."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{len(os.sched_getaffinity(0))} cores ({cpu()}), {memory():.0f} GB of memory, {system()}"
    versions = [f"Python {platform.python_version()}", *(f"{name} {found(name)}" for name in PACKAGES)]
    today = f"{datetime.date.today():%Y-%m-%d}"
    return f"{today}, {machine}; {', '.join(versions)}; {vllm()}. Load at the start {load}."


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory() -> float:
    """Gigabytes (2**30) that the machine has, or that its control group lets this process have."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            whole = min(whole, int(Path(limit).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return whole / 2**30


def system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return sys.platform


def found(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def vllm() -> str:
    """Versions in vLLM's environment, which has a transformers of its own."""
    if not VLLM.exists():
        return "vLLM absent"
    asked = subprocess.run([str(VLLM), "-c", _ASK], capture_output=True, text=True, check=False)
    if asked.returncode:
        return "vLLM's environment broken"
    versions = json.loads(asked.stdout)
    own = ", ".join(f"{name} {versions.pop(name)}" for name in ("torch", "transformers"))
    names = ", ".join(f"{name} {number}" for name, number in versions.items()) or "vLLM absent"
    return f"{names} ({own})"
