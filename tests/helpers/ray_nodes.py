"""Run `anchorsr bulk` on a Ray cluster of several nodes on this machine, and kill one of them.

    python tests/helpers/ray_nodes.py SOURCE TARGET KILL_AFTER [OPTION...]

Each node has one processor. Once KILL_AFTER files are in the folder TARGET, a node that works is
killed, and its processes with it. Prints the exit code, and what the command printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_worker_niceness="0",
)

from ray.cluster_utils import Cluster

_STORE = 80 << 20


def main(source: str, target: str, kill_after: int, options: list[str]) -> int:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False},
    )
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=_STORE) for _ in range(2)]
    command = [sys.executable, "-m", "anchorsr", "bulk", source, target, *options]
    try:
        bulk = subprocess.Popen([*command, "--address", cluster.address])
        while bulk.poll() is None:
            time.sleep(0.2)
            made = sum(path.is_file() for path in Path(target).rglob("*.*"))
            if nodes and made >= kill_after:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                print(f"killed a node after {made} files", flush=True)
                nodes.clear()
        return bulk.returncode
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3], int(sys.argv[3]), sys.argv[4:]))
