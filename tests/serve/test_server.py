"""The REST interface: what the command line makes, and refusals in words with a fitting status."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchorsr.data.strengths import parse_strengths
from anchorsr.inference.batch import Job
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import FileOptions, upscale_files
from anchorsr.inference.sizes import TargetSize
from anchorsr.serve.options import parse_options, plain_name
from anchorsr.utils.sample_image import sample_image
from helpers.serve_process import Server, start

pytest.importorskip("starlette")


def ask(
    server: Server, path: str, body: bytes | None = None, *, method: str = "", **headers: str
) -> tuple[int, bytes, Any]:
    """Status, body and headers of an answer."""
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    request = urllib.request.Request(server.address + path, body, names)
    request.method = method or ("GET" if body is None else "POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def refused(server: Server, path: str, body: bytes | None = None, **more: str) -> tuple[int, str]:
    status, data, headers = ask(server, path, body, **more)
    assert headers["content-type"] == "application/json"
    return status, json.loads(data)["error"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif[0x0112] = 6
    Image.fromarray(sample_image(40, 52, seed=1)).save(path, exif=exif)
    return path


def command_line(source: Path, target: Path, *, quality: int = 92, **more: Any) -> bytes:
    upscaler = ImageUpscaler("fast", more.pop("factor", None), TargetSize(**more))
    (result,) = upscale_files([Job(source, target)], upscaler, FileOptions(quality))
    assert result.error is None
    return target.read_bytes()


def test_a_body_is_upscaled_as_on_the_command_line(
    server: Server, photo: Path, tmp_path: Path
) -> None:
    status, data, headers = ask(
        server, "api/upscale?model=fast&factor=2&name=a%20photo.jpg", photo.read_bytes()
    )
    assert status == 200
    assert data == command_line(photo, tmp_path / "x.jpg", factor=2)
    assert headers["content-type"] == "image/jpeg"
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''a%20photo_x2.jpg"


@pytest.mark.slow
def test_other_options_are_those_of_the_command_line(
    server: Server, photo: Path, tmp_path: Path
) -> None:
    query = "wrap=true&lossless=true&format=webp&strength=jpeg%3D60,noise%3D4"
    status, data, _ = ask(server, f"api/upscale?{query}", photo.read_bytes())
    assert status == 200, data
    strengths = parse_strengths("jpeg=60,noise=4")
    upscaler = ImageUpscaler("auto", strengths=strengths, wraps=True)
    files = FileOptions(lossless=True)
    (result,) = upscale_files([Job(photo, tmp_path / "x.webp")], upscaler, files)
    assert result.error is None
    assert data == (tmp_path / "x.webp").read_bytes()


@pytest.mark.slow
def test_a_form_brings_a_file_and_its_name(server: Server, photo: Path, tmp_path: Path) -> None:
    edge = "edge-of-the-parts"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="f"; filename="p.jpg"\r\n\r\n'
    body = head.encode() + photo.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    kind = f"multipart/form-data; boundary={edge}"
    path = "api/upscale?model=fast&width=100&format=webp&quality=70"
    status, data, headers = ask(server, path, body, content_type=kind)
    assert status == 200
    assert data == command_line(photo, tmp_path / "x.webp", quality=70, width=100)
    assert headers["content-disposition"].endswith("p_w100.webp")


def test_a_job_is_followed_collected_and_deleted(
    server: Server, photo: Path, tmp_path: Path
) -> None:
    status, data, headers = ask(server, "api/jobs?model=fast&name=p.jpg", photo.read_bytes())
    told = json.loads(data)
    assert (status, told["state"]) == (202, "waiting")
    address = headers["location"].lstrip("/")
    assert address == f"api/jobs/{told['id']}"
    told = json.loads(ask(server, f"{address}?wait=30")[1])
    assert told["state"] == "done"
    assert told["result"] == {
        "name": "p_x3.jpg", "size": [40, 52], "target_size": [120, 156], "notes": []
    }  # fmt: skip
    assert told["id"] in [job["id"] for job in json.loads(ask(server, "api/jobs")[1])["jobs"]]
    assert ask(server, f"{address}/result")[1] == command_line(photo, tmp_path / "x.jpg")
    assert ask(server, address, method="DELETE")[0] == 204
    assert refused(server, address)[0] == 404
    assert refused(server, f"{address}/result")[0] == 404


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("factor=9", 400, "factor is a whole number from 2 to 4, not '9'"),
        ("scale=2&width=100", 400, "exclude one another"),
        ("size=1x", 400, "size is WIDTHxHEIGHT"),
        ("size=10x10&width=3", 400, "size excludes width and height"),
        ("stretch=maybe", 400, "stretch is true or false"),
        ("factr=2", 400, "factr"),
        ("quality=50&quality=60", 400, "given twice"),
        ("model=../../etc/passwd", 400, "model"),
        ("model=abpn&factor=2", 400, "abpn"),
        ("format=../x", 400, "format"),
        ("strength=jpg%3D75", 400, "no strength"),
        ("model=quality&strength=jpeg%3D75", 400, "strengths"),
        ("lossless=true", 422, "lossless"),
        ("scale=900000", 413, "more than the limit"),
        ("name=film.mp4&factor=2", 422, "film.mp4"),
        ("name=film.mp4&width=20", 400, "a video takes"),
    ],
)
def test_what_cannot_be_done_is_said(
    server: Server, photo: Path, query: str, status: int, words: str
) -> None:
    found, message = refused(server, f"api/upscale?{query}", photo.read_bytes())
    if "film" in query and found == 501:
        pytest.skip("needs anchorsr[video]")
    assert (found, words in message) == (status, True), message
    assert "/tmp" not in message and "cache" not in message


def test_no_path_of_the_server_can_be_read(server: Server, photo: Path) -> None:
    for path in ("..%2f..%2fapp.py", "%2e%2e/app.py", "../jobs.py", "kernel.json/../../app.py"):
        assert refused(server, path)[0] == 404
    status, _, headers = ask(
        server, "api/upscale?model=fast&name=..%2F..%2Fetc%2Fpasswd", photo.read_bytes()
    )
    assert (status, headers["content-disposition"]) == (
        200, "attachment; filename*=UTF-8''passwd_x3.jpg"
    )  # fmt: skip
    assert plain_name("C:\\windows\\a<b>.png") == "a_b_.png"
    assert plain_name("...") == "image"


@pytest.mark.slow
def test_damaged_images_fail_alone(server: Server, photo: Path) -> None:
    data = bytearray(photo.read_bytes())
    random = np.random.default_rng(0)
    for case in range(12):
        broken = data[: random.integers(1, len(data))] if case % 2 else bytearray(data)
        for place in random.integers(0, len(broken), 20):
            broken[place] = random.integers(256)
        status, answer, _ = ask(server, "api/upscale?model=fast", bytes(broken))
        assert status in (200, 413, 422), (case, status, answer[:200])
    status, message = refused(server, "api/upscale?name=me.png", b"no image")
    assert (status, message.startswith("me.png is not a PNG")) == (422, True)
    assert refused(server, "api/upscale", b"")[0] == 400


def test_limits_are_told(server: Server) -> None:
    assert refused(server, "api/upscale", bytes(20_000_001)) == (
        413, "this server takes files of up to 20,000,000 bytes"
    )  # fmt: skip
    # A PNG that says of itself that it has 60,000 by 60,000 pixels.
    header = bytes.fromhex("89504e470d0a1a0a0000000d494844520000ea600000ea600802000000")
    status, message = refused(server, "api/upscale?name=huge.png", header + bytes(100))
    assert status in (413, 422) and "huge.png" in message


def test_other_sites_and_names_are_refused(server: Server, photo: Path) -> None:
    assert refused(server, "api/models", host="evil.example")[0] == 421
    assert refused(server, "", host="evil.example:80")[0] == 421
    other = {"origin": "http://evil.example"}
    assert refused(server, "api/upscale", photo.read_bytes(), **other)[0] == 403
    assert refused(server, "api/models", sec_fetch_site="cross-site")[0] == 403
    assert ask(server, "api/models", sec_fetch_site="same-origin")[0] == 200
    own = server.address.rstrip("/")
    assert ask(server, "api/upscale?model=fast", photo.read_bytes(), origin=own)[0] == 200


def test_models_metrics_health_and_description(server: Server) -> None:
    names = {model["name"] for model in json.loads(ask(server, "api/models")[1])["models"]}
    assert {"fast", "quality"} <= names
    assert json.loads(ask(server, "healthz")[1])["status"] == "ok"
    metrics = ask(server, "metrics")[1].decode()
    assert re.search(r'anchorsr_requests_total\{method="GET",status="200"\} [1-9]', metrics)
    described = json.loads(ask(server, "api/openapi.json")[1])
    assert "/api/upscale" in described["paths"]
    for path, methods in described["paths"].items():
        for method in methods:
            status = ask(server, path.lstrip("/").replace("{id}", "x" * 22), method=method.upper())
            assert status[0] != 405, path
        status, _, headers = ask(server, path.lstrip("/").replace("{id}", "x"), method="PATCH")
        allowed = {method.strip() for method in headers["allow"].split(",")} - {"HEAD"}
        assert (status, allowed) == (405, {method.upper() for method in methods}), path


@pytest.mark.slow
def test_beyond_the_machine_a_token_is_needed(tmp_path: Path) -> None:
    server = start(tmp_path, "--host", "0.0.0.0", "--token", "secret")
    try:
        assert server.address.endswith("#token=secret")
        port = re.search(r":(\d+)/", server.address)
        assert port is not None
        server.address = f"http://127.0.0.1:{port[1]}/"
        assert ask(server, "")[0] == 200  # the page itself
        assert refused(server, "api/models")[0] == 401
        assert refused(server, "api/models", authorization="Bearer other")[0] == 401
        assert ask(server, "api/models", authorization="Bearer secret")[0] == 200
    finally:
        assert server.stop() == 0


@pytest.mark.slow
def test_jobs_survive_a_server_that_is_killed(tmp_path: Path, photo: Path) -> None:
    first = start(tmp_path, "--workers", "1")
    paths = []
    for _ in range(5):
        _, data, _ = ask(first, "api/jobs?name=p.jpg", photo.read_bytes())
        paths.append(f"api/jobs/{json.loads(data)['id']}")
    first.process.send_signal(signal.SIGKILL)
    first.end()
    second = start(tmp_path)
    try:
        for path in paths:
            assert json.loads(ask(second, f"{path}?wait=30")[1])["state"] == "done"
            assert ask(second, f"{path}/result")[0] == 200
    finally:
        assert second.stop() == 0


@pytest.mark.slow
def test_a_full_queue_and_a_client_that_leaves(tmp_path: Path) -> None:
    server = start(tmp_path, "--workers", "1", "--max-waiting", "2")
    large = tmp_path / "large.png"
    Image.fromarray(sample_image(900, 1200, seed=0)).save(large)
    try:
        jobs = [ask(server, "api/jobs", large.read_bytes()) for _ in range(3)]
        assert [status for status, _, _ in jobs] == [202, 202, 429]
        for _, data, _ in jobs[:2]:
            path = f"api/jobs/{json.loads(data)['id']}"
            waits = threading.Thread(target=ask, args=(server, f"{path}?wait=30"))
            waits.start()
            time.sleep(0.1)
            assert ask(server, path, method="DELETE")[0] == 204  # ends the worker, if it runs
            waits.join(20)
            assert not waits.is_alive()
        status, data, _ = ask(server, "api/upscale?model=fast&scale=0.1", large.read_bytes())
        assert status == 200 and data.startswith(b"\x89PNG")
    finally:
        assert server.stop() == 0


def test_options_are_those_of_the_command_line() -> None:
    options = parse_options({"size": "300x200", "stretch": "true", "model": "fast_x2"})
    assert options.target == TargetSize(None, 200, 300, stretch=True)
    assert (options.model, options.quality) == ("fast_x2", 92)
