"""Ray, joined or started: whose cluster it is, and that this process stays as it was."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparring.errors import UserError


@contextmanager
def connected(count: int) -> Iterator[Any]:
    """Ray, connected; a cluster that had to be started is ended again."""
    with _handlers_kept():
        import ray

        mine = not ray.is_initialized()
        if mine:
            _start(ray, count)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _start(ray: Any, count: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}  # output belongs to results
    try:
        if address := os.environ.get("RAY_ADDRESS"):
            ray.init(address=address, **quiet)
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing leaves this machine
        ray.init(
            address="local", num_cpus=count, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet
        )
    except Exception as error:  # Ray has no class of its own for it
        ray.shutdown()
        raise UserError(
            f"Ray cannot be reached or started: {' '.join(str(error).split())[:300]}; on a busy machine (its "
            "parts have 15 s) try again, or begin a cluster by `ray start --head` and name it in RAY_ADDRESS"
        ) from None


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes over how the process is terminated; who runs it has decided that already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminate, hook = signal.getsignal(signal.SIGTERM), sys.excepthook
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminate)
        sys.excepthook = hook
