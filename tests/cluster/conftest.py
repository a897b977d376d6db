"""The journal fixtures of `tests/memory`, and a Ray cluster of two nodes on this machine.

Ray's tests need PostgreSQL: `make test-ray` starts one and runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / room) for room in ("agents", "training")]

_spec = spec_from_file_location("memory_conftest", Path(__file__).parents[1] / "memory" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
template, databases, database = _fixtures.template, _fixtures.databases, _fixtures.database
memory, postgres_only = _fixtures.memory, _fixtures.postgres_only


NODES = """
import socket, sys
from ray.cluster_utils import Cluster

PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")

def node():  # where Ray finds ports by itself it gives each 15 s, too few on a busy machine
    held = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    found = {name: one.getsockname()[1] for name, one in zip(PORTS, held)}
    for one in held:
        one.close()
    return {"num_cpus": 1, "node_ip_address": "127.0.0.1", **found}

nodes = Cluster(initialize_head=True, head_node_args={**node(), "include_dashboard": False})
nodes.add_node(**node())
print(nodes.address, flush=True)
sys.stdin.read()
nodes.shutdown()
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of two nodes, which this process is connected to as a driver."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # or 127.0.0.1 is read as this machine's address
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112 - so it is called; others may use it up
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", NODES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},  # where workers find the tests' own tools
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "the nodes did not start"
        import ray

        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        for node in ray.nodes():
            _reach(node["NodeID"])
        assert len(ray.nodes()) == 2, "a node did not live"
        yield address
        ray.shutdown()
    finally:
        process.communicate("", timeout=120)


def _reach(node: str) -> None:
    """Return once a task was run on that node: the first knows of the second only after a while."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = ray.remote(lambda: ray.get_runtime_context().get_node_id())
    there = where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True))
    for _ in range(60):
        if ray.get(there.remote()) == node:
            return
        time.sleep(0.5)
    raise AssertionError("a node is never reached")
