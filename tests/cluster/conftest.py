"""The journal fixtures of `tests/memory`, and a Ray cluster of two nodes on this machine.

Ray's tests need PostgreSQL: `make test-ray` starts one and runs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / room) for room in ("agents", "training")]

_spec = spec_from_file_location("memory_conftest", Path(__file__).parents[1] / "memory" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
template, databases, database = _fixtures.template, _fixtures.databases, _fixtures.database
memory, postgres_only = _fixtures.memory, _fixtures.postgres_only


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes, and this process connected as a driver."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        nodes.add_node(**node)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
