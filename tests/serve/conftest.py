"""A server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.serve_process import Server, start


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(
        tmp_path_factory.mktemp("cache"), "--max-megabytes", "20", "--max-megapixels", "25"
    )
    yield server
    server.process.kill()
    server.end()
