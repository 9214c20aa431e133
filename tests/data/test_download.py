"""Data sets from a local server: downloaded, interrupted and resumed, verified, unpacked."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from anchorsr.cli.app import run
from anchorsr.data import download as download_module
from anchorsr.data.download import Archive, download
from anchorsr.errors import DataError, OutputError
from anchorsr.utils.locks import FileLocks


def zipped(folder: str, count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        content.writestr(f"{folder}/", b"")
        for number in range(count):
            content.writestr(f"{folder}/{number:04}.png", bytes([number]) * 3000)
    return buffer.getvalue()


DATA = zipped("SET", 8)
ARCHIVE = Archive("SET", 8, len(DATA), hashlib.sha256(DATA).hexdigest())


@dataclass
class Server:
    """Faults of the server, and the requests it got."""

    url: str = ""
    cut_after: int = 0  # bytes of one response, 0: all
    knows_ranges: bool = True
    status: int = 200
    data: bytes = DATA
    tells_length: bool = True
    starts: list[int] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *arguments: object) -> None:
        self.plan = server
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        plan = self.plan
        asked = self.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if plan.knows_ranges else 0
        plan.starts.append(start)
        if plan.status != 200 or self.path != "/SET.zip":
            self.send_error(plan.status if plan.status != 200 else 404)
            return
        rest = plan.data[start:]
        self.send_response(206 if start else 200)
        if plan.tells_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: plan.cut_after] if plan.cut_after else rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module.time, "sleep", lambda _: None)
    plan = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, plan)) as http:
        plan.url = f"http://127.0.0.1:{http.server_port}/"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield plan
        http.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


EXPECTED = ["SET", *[f"SET/{number:04}.png" for number in range(8)]]


def test_a_set_is_fetched_and_unpacked(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = download(
        ARCHIVE, tmp_path, address=server.url, on_progress=lambda *state: seen.append(state)
    )
    assert folder == tmp_path / "SET"
    assert names(tmp_path) == EXPECTED
    assert (folder / "0003.png").read_bytes() == b"\3" * 3000
    assert seen[-1] == (len(DATA), len(DATA))


def test_a_set_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    download(ARCHIVE, tmp_path, address=server.url)
    download(ARCHIVE, tmp_path, address=server.url)
    assert len(server.starts) == 1


def test_two_runs_do_not_fetch_the_same(server: Server, tmp_path: Path) -> None:
    with FileLocks() as other:
        assert other.acquire(tmp_path / "SET.zip.part")
        with pytest.raises(OutputError, match="is being downloaded by another process"):
            download(ARCHIVE, tmp_path, address=server.url)
    assert download(ARCHIVE, tmp_path, address=server.url) == tmp_path / "SET"
    assert names(tmp_path) == EXPECTED


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    server: Server, tmp_path: Path
) -> None:
    server.cut_after = 7_000
    download(ARCHIVE, tmp_path, address=server.url)
    assert names(tmp_path) == EXPECTED
    assert server.starts == [0, 7_000, 14_000, 21_000]


def test_a_run_that_was_stopped_goes_on(server: Server, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        raise KeyboardInterrupt

    server.cut_after = 9_000
    with pytest.raises(KeyboardInterrupt):
        download(ARCHIVE, tmp_path, address=server.url, on_progress=stop)
    assert (tmp_path / "SET.zip.part").stat().st_size == 9_000
    server.cut_after = 0
    download(ARCHIVE, tmp_path, address=server.url)
    assert server.starts == [0, 9_000]
    assert names(tmp_path) == EXPECTED


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "SET.zip.part").write_bytes(b"x" * 5_000)
    server.knows_ranges = False
    download(ARCHIVE, tmp_path, address=server.url)
    assert names(tmp_path) == EXPECTED


def test_another_archive_is_deleted_and_told(server: Server, tmp_path: Path) -> None:
    server.data = bytes(len(DATA))
    with pytest.raises(DataError, match="differs from the published archive"):
        download(ARCHIVE, tmp_path, address=server.url)
    assert names(tmp_path) == []


@pytest.mark.parametrize("data", [b"<html>Please log in</html>", DATA + bytes(50_000_000)])
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_an_answer_of_another_length_does_not_replace_what_is_there(
    data: bytes, knows_ranges: bool, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "SET.zip.part").write_bytes(DATA[:5_000])
    server.data, server.knows_ranges = data, knows_ranges
    for server.tells_length in (True, False):
        with pytest.raises(DataError, match=r"SET\.zip: the response has .* bytes, not \d+"):
            download(ARCHIVE, tmp_path, address=server.url)
        assert (tmp_path / "SET.zip.part").read_bytes() == DATA[:5_000]


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, 5)])
def test_an_error_of_the_server_is_told(
    server: Server, tmp_path: Path, status: int, asked: int
) -> None:
    server.status = status
    with pytest.raises(DataError, match=str(status)):
        download(ARCHIVE, tmp_path, address=server.url)
    assert len(server.starts) == asked


def test_no_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module.time, "sleep", lambda _: None)
    with pytest.raises(DataError, match="refused"):
        download(ARCHIVE, tmp_path, address="http://127.0.0.1:9/")


@pytest.mark.parametrize(
    "address", ["", "example.com", "http://[::1", "file:///etc", "http://a b/"]
)
def test_what_is_no_address_is_told(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match="is not a URL"):
        download(ARCHIVE, tmp_path, address=address)


def test_an_incomplete_folder_is_not_touched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "SET").mkdir()
    (tmp_path / "SET" / "0000.png").write_bytes(b"")
    with pytest.raises(DataError, match="holds 1 PNG files, not 8"):
        download(ARCHIVE, tmp_path, address=server.url)
    assert server.starts == []


def test_too_little_space_is_told_before_anything_is_fetched(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="GB more of free space"):
        download(replace(ARCHIVE, size_bytes=2**60), tmp_path, address=server.url)
    assert server.starts == []


def test_the_command_fetches_the_parts(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(download_module.DIV2K, "train", ARCHIVE)
    arguments = ["data", "div2k", "-o", str(tmp_path), "--address", server.url]
    assert run([*arguments, "--only", "train"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "SET")
    assert run([*arguments, "--only", "valid"]) == 1
    assert "404" in capsys.readouterr().err
    assert run(["data", "imagenet"]) == 2


def test_the_published_sets_are_these() -> None:
    assert {name: (a.folder, a.images) for name, a in download_module.DIV2K.items()} == {
        "train": ("DIV2K_train_HR", 800),
        "valid": ("DIV2K_valid_HR", 100),
    }
    assert download_module.ADDRESS == "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
