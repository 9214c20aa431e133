"""Images in stores of the kinds of Google and Microsoft.

Each test needs the address of a folder in one that runs already, such as the emulators
gcp-storage-emulator (PyPI) and Azurite (npm):

    ANCHORSR_TEST_GS="gs://BUCKET?endpoint_override=127.0.0.1:9023&scheme=http&anonymous=true"
    ANCHORSR_TEST_AZ="az://CONTAINER?account_name=devstoreaccount1&blob_storage_scheme=http&..."
    AZURE_STORAGE_KEY=... pytest tests/cluster/test_other_stores.py
"""

from __future__ import annotations

import io
import os
import uuid
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from anchorsr.cluster.addresses import Address, parse_address
from anchorsr.cluster.manifest import begin, read_manifest, read_settings, to_table, write_part
from anchorsr.cluster.plan import Found, list_tasks
from anchorsr.cluster.rows import Status
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.stores import read_bytes, size_of, write_bytes
from anchorsr.cluster.work import Worker
from anchorsr.errors import StoreError
from anchorsr.inference.batch import Job
from anchorsr.inference.pipeline import upscale_files
from helpers.images import noise

pytestmark = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs anchorsr[cluster]")


@pytest.fixture(params=["GS", "AZ"])
def folder(request: pytest.FixtureRequest) -> Address:
    """A folder of the store that nobody else has."""
    name = f"ANCHORSR_TEST_{request.param}"
    if name not in os.environ:
        pytest.skip(f"needs a store: {name}={request.param.lower()}://...")
    return parse_address(os.environ[name]).below(uuid.uuid4().hex)


@pytest.mark.slow
def test_images_of_all_levels_are_done_and_resumed(folder: Address, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(noise(12, 16)).save(stream, "PNG")
    for name in ("1.png", "a b/2.png", "a b/c/3.png", ".hidden/4.png", "bad.png"):
        data = b"nothing" if name == "bad.png" else stream.getvalue()
        write_bytes(folder.below(f"in/{name}"), data)
    settings = Settings(folder.below("in"), folder.below("out"), model="fast")
    tasks = list(list_tasks(settings, Found()))
    assert {task.target for task in tasks} == {"1.png", "a b/2.png", "a b/c/3.png", "bad.png"}
    begin(settings.target, settings.of_results(), overwrite=False)
    rows = list(Worker(settings).run(tasks))
    write_part(settings.target, [to_table(rows)])
    (tmp_path / "in.png").write_bytes(stream.getvalue())
    list(upscale_files([Job(tmp_path / "in.png", tmp_path / "out.png")], settings.upscaler()))
    for row in rows:
        if row.target == "bad.png":
            assert row.status is Status.FAILED
            assert size_of(settings.target.below(row.target)) is None
        else:
            assert row.status is Status.DONE, row.error
            made = read_bytes(settings.target.below(row.target))
            assert made == (tmp_path / "out.png").read_bytes()
    assert read_settings(settings.target) == settings.of_results()
    assert len(read_manifest(settings.target).made) == 3
    assert len(read_manifest(settings.target).failed) == 1
    again = Worker(settings).run(tasks)
    assert {row.status for row in again} == {Status.PRESENT, Status.FAILED}


def test_what_is_missing_is_told_at_once(folder: Address) -> None:
    with pytest.raises(StoreError, match=r"missing\.png cannot be read"):
        read_bytes(folder.below("missing.png"))
