"""Images in a real S3 store, behind a proxy that refuses, resets and delays requests.

The store is one that runs already, such as OpenStack Swift with s3api or Ceph's RADOS gateway:

    ANCHORSR_TEST_S3=PORT:BUCKET AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... \\
        pytest tests/cluster/test_store.py

It listens on a port of this machine, and the bucket exists.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.cluster import retries
from anchorsr.cluster.addresses import Address, parse_address
from anchorsr.cluster.manifest import begin, read_manifest, read_settings, to_table, write_part
from anchorsr.cluster.plan import Found, list_tasks
from anchorsr.cluster.rows import Status, Task
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.stores import list_names, read_bytes, size_of, write_bytes
from anchorsr.cluster.work import Worker
from anchorsr.errors import StoreError
from anchorsr.inference.batch import plan_jobs
from anchorsr.inference.pipeline import upscale_files
from helpers.flaky_proxy import Flaky

_STORE = os.environ.get("ANCHORSR_TEST_S3", "")
pytestmark = [
    pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs anchorsr[cluster]"),
    pytest.mark.skipif(not _STORE, reason="needs an S3 store: ANCHORSR_TEST_S3=PORT:BUCKET"),
]


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """The proxy; pauses are short."""
    monkeypatch.setattr(retries, "_FIRST_SECONDS", 0.02)
    port = int(_STORE.partition(":")[0])
    with Flaky(0, port, refused=0.2, reset=0.05, slow=0.01) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.fixture
def folder(flaky: Flaky) -> Address:
    """A folder of the store that nobody else has, through the proxy."""
    bucket = _STORE.partition(":")[2]
    options = f"endpoint_override=127.0.0.1:{flaky.server_address[1]}&scheme=http"
    return parse_address(f"s3://{bucket}/{uuid.uuid4().hex}?{options}")


def test_results_have_the_bytes_of_upscale(
    folder: Address, flaky: Flaky, tmp_path: Path, dog: np.ndarray
) -> None:
    for number in range(20):
        path = tmp_path / "in" / f"{number}.{('jpg', 'png')[number % 2]}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(dog[number : number + 30, :40]).save(path)
        write_bytes(folder.below(f"in/a/{path.name}"), path.read_bytes())
    write_bytes(folder.below("in/bad.png"), b"nothing")
    settings = Settings(folder.below("in"), folder.below("out"), model="fast")
    tasks = list(list_tasks(settings, Found()))
    assert len(tasks) == 21
    rows = list(Worker(settings).run([*tasks, Task(str(folder.below("in/gone.png")), "gone.png")]))
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    list(upscale_files(jobs, settings.upscaler()))
    for row in rows:
        if row.target in ("bad.png", "gone.png"):
            bad = row.target == "bad.png"
            assert row.status is (Status.FAILED if bad else Status.UNFINISHED)
            assert f"/in/{row.target}" in row.error
            assert size_of(settings.target.below(row.target)) is None
            continue
        assert row.status is Status.DONE, row.error
        expected = (tmp_path / "out" / Path(row.target).name).read_bytes()
        assert read_bytes(settings.target.below(row.target)) == expected
    assert flaky.counts["refused"] > 10
    assert flaky.counts["reset"] > 1
    again = list(Worker(settings).run(tasks))
    states = {row.target: row.status for row in again}
    assert states.pop("bad.png") is Status.FAILED
    assert set(states.values()) == {Status.PRESENT}
    shas = {row.target: row.sha256 for row in rows}
    assert all(row.sha256 == shas[row.target] for row in again)


def test_a_manifest_is_kept_in_the_store(folder: Address, tmp_path: Path) -> None:
    settings = Settings(folder.below("in"), folder.below("out"))
    begin(settings.target, settings.of_results(), overwrite=False)
    assert read_settings(settings.target) == settings.of_results()
    rows = list(Worker(settings).run([Task("s3://nowhere/x.png", "x.png", "refused")]))
    write_part(settings.target, [to_table(rows)])
    assert len(list_names(settings.target.below("_manifest"))) == 2
    task = Task("s3://nowhere/x.png", "x.png")
    assert read_manifest(settings.target).failed.contains([task.key]).all()


def test_what_will_not_pass_is_told_at_once(folder: Address) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        read_bytes(folder.below("missing.png"))
    nowhere = Address("s3", "no-such-bucket-here/x.png", folder.options)
    with pytest.raises(StoreError, match="cannot be written"):
        write_bytes(nowhere, b"x")
