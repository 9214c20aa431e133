"""Workers on a Ray cluster: one that runs already, or one of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorsr.cluster.manifest import to_table as rows_to_table
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.spool import to_tasks
from anchorsr.cluster.work import Worker
from anchorsr.engines.runtimes import default_threads
from anchorsr.errors import ClusterError, needs
from anchorsr.utils.files import reason
from anchorsr.utils.temporary import temporary_folder

# How often a block of images may lose its worker before its images are done one by one.
_RETRIES = 3
# Blocks that wait at a worker, so that it never has to.
_IN_FLIGHT = 2
_CONNECT_SECONDS = 10.0
_STORE_BYTES = 128 << 20
# A socket's path has at most 107 bytes, of which Ray takes 60.
_LONGEST_FOLDER = 40
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's makers
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
# Ray's switch for systems on which a cluster has one machine: nothing listens beyond loopback.
_ONLY_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        workers: Their number.
        nodes: The number of machines.
        grows: Whether more workers may be started where more machines join.
    """

    workers: int
    nodes: int
    grows: bool

    def run(self, settings: Settings, blocks: list[Any]) -> Iterator[Any]:
        """Upscale images.

        Args:
            settings: The options.
            blocks: The tasks, as pyarrow tables. A worker takes one after another.

        Yields:
            Tables of the manifest's kind, in the order in which they end. The rows of a block that
            has lost its worker too often are missing.

        Raises:
            ClusterError: The work cannot go on.
        """
        import ray.data

        most = min(self.workers, len(blocks))
        pool: dict[str, Any] = {"size": most}
        if self.grows and len(blocks) > self.workers:
            pool = {"min_size": most, "max_size": len(blocks), "initial_size": most}
        with warnings.catch_warnings():
            # Until Ray 2.64 there is no other way to limit how often a block is tried again.
            warnings.simplefilter("ignore")
            rows = ray.data.from_arrow(blocks).map_batches(
                _Upscaling,
                fn_constructor_args=[settings],
                batch_format="pyarrow",
                batch_size=None,
                num_cpus=settings.threads,
                compute=ray.data.ActorPoolStrategy(
                    **pool, max_tasks_in_flight_per_actor=_IN_FLIGHT
                ),
                ray_remote_args_fn=_remote_options,
            )
        try:
            yield from rows.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except (ray.exceptions.RayError, RuntimeError, OSError, ValueError) as error:
            raise ClusterError(f"the cluster cannot go on: {_last_line(error)}") from error


def _remote_options() -> dict[str, Any]:
    return {"max_restarts": -1, "max_task_retries": _RETRIES}


class _Upscaling:
    """What Ray calls in the process of a worker."""

    def __init__(self, settings: Settings) -> None:
        self._worker = Worker(settings)

    def __call__(self, tasks: Any) -> Any:
        return rows_to_table(self._worker.run(to_tasks(tasks)))


@contextlib.contextmanager
def join_cluster(
    address: str | None, *, threads: int, workers: int | None = None
) -> Iterator[Cluster]:
    """Join a Ray cluster, or start one on this machine and stop it after the block.

    Args:
        address: As `ray.init` takes it: `auto`, or HOST:PORT; None to start one.
        threads: The threads of each worker.
        workers: Their number; None for as many as there are processors for.

    Yields:
        The cluster.

    Raises:
        ClusterError: It cannot be joined or started, or has too few processors.
        MissingDependencyError: Ray is not installed.
    """
    for name, value in {**_ENVIRONMENT, **({} if address else _ONLY_HERE)}.items():
        os.environ.setdefault(name, value)
    with needs("Ray", "cluster"):
        import ray
        import ray.data
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"address": address}
        if address is not None:
            _check_reachable(address)
        else:
            folder = stack.enter_context(temporary_folder())
            options = _local_options(folder, max((workers or 0) * threads, default_threads()))
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except SystemExit:  # what Ray makes of SIGTERM
            raise KeyboardInterrupt from None
        except Exception as error:  # Ray raises plain exceptions
            where = f"no Ray cluster at {address}" if address else "Ray cannot be started here"
            raise ClusterError(f"{where}: {_last_line(error)}") from error
        stack.callback(ray.shutdown)
        # Ray prints there what its processes tell of one another, among our results.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        for number, handler in handlers.items():  # Ray has put its own in their place
            signal.signal(number, handler)
        _silence(ray)
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < threads:
            raise ClusterError(f"the cluster has {cpus} processors, and a worker takes {threads}")
        count = min(workers or cpus // threads, cpus // threads)
        grows = address is not None and workers is None
        yield Cluster(count, alive_nodes(), grows)


def alive_nodes() -> int:
    """Return how many machines the cluster has at the moment."""
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes, and then tells less."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster at {address} ({reason(error)}): ray status shows the address"
        ) from error


def _local_options(folder: Path, cpus: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    if len(str(folder)) <= _LONGEST_FOLDER:  # gone at the end, unlike Ray's own
        options["_temp_dir"] = str(folder)
    return options


def _silence(ray: Any) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # their images are done one by one
    context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _last_line(error: BaseException) -> str:
    """What an exception of Ray says, without the stacks of other processes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else reason(error)
