"""The page in a real Chromium, with this machine's engine and with the browser's own."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from anchorsr.inference.batch import Job
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import FileOptions, upscale_files
from anchorsr.inference.sizes import TargetSize
from anchorsr.models.registry import DEFAULT
from anchorsr.serve.static import write_static
from anchorsr.utils.sample_image import sample_image
from helpers.chromium import Chromium
from helpers.serve_process import Server

pytestmark = pytest.mark.slow

# Enough for any test here on a busy machine, and little enough for whoever waits for a hung one.
SECONDS = 90
# Drops files, given as [[name, base64]], on the page.
DROP = """async (files) => {
  const transfer = new DataTransfer();
  for (const [name, bytes] of files)
    transfer.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name));
  const all = {dataTransfer: transfer, bubbles: true, cancelable: true};
  document.dispatchEvent(new DragEvent("dragenter", all));
  document.dispatchEvent(new DragEvent("drop", all));
}"""
NARROW = {"viewport": {"width": 360, "height": 700}, "has_touch": True, "is_mobile": True}
PASTE = """async (bytes) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], "image.png", {type: "image/png"}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
}"""


class _Files(SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page as files."""
    folder = tmp_path_factory.mktemp("static")
    write_static(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def browser(running_browser: Chromium) -> Iterator[Chromium]:
    with running_browser.limit(SECONDS):
        yield running_browser


@contextlib.contextmanager
def opened(browser: Chromium, address: str, **options: Any) -> Iterator[Any]:
    """A page that is ready; fails if a script of it fails, or its security policy is violated."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(1000 * SECONDS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if "Security Policy" in m.text else None)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.click("label:has(input[value=fast])")
    yield page
    assert problems == []


@pytest.fixture
def page(browser: Chromium, server: Server) -> Iterator[Any]:
    with opened(browser, server.address) as page:
        yield page


@pytest.fixture
def offline_page(browser: Chromium, static: str) -> Iterator[Any]:
    with opened(browser, static) as page:
        yield page


def png(height: int = 30, width: int = 40, **more: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(sample_image(height, width, seed=height)).save(stream, "PNG", **more)
    return stream.getvalue()


def dib() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(sample_image(9, 8, seed=1)).save(stream, "BMP")
    return stream.getvalue()


def drop(page: Any, *files: tuple[str, bytes]) -> None:
    page.evaluate(DROP, [[name, base64.b64encode(data).decode()] for name, data in files])


def finish(page: Any, count: int) -> None:
    page.wait_for_function(
        "count => document.querySelectorAll('li.done, li.failed').length === count", arg=count
    )


def saved(page: Any, selector: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(selector)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def command_line(data: bytes, folder: Path, suffix: str = ".png", **target: Any) -> bytes:
    source, made = folder / f"in{suffix}", folder / f"out{suffix}"
    source.write_bytes(data)
    upscaler = ImageUpscaler("fast", None, TargetSize(**target))
    (result,) = upscale_files([Job(source, made)], upscaler, FileOptions(overwrite=True))
    assert result.error is None
    return made.read_bytes()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_new_visitor_gets_the_model_that_the_command_line_takes(
    browser: Chromium, server: Server, static: str
) -> None:
    for address, model in ((server.address, "auto"), (static, DEFAULT)):
        page = browser.new_context().new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        assert page.input_value("input[name=model]:checked") == model


def test_a_dropped_image_gives_the_bytes_of_the_command_line(page: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = png(exif=exif)
    drop(page, ("a photo.png", data))
    finish(page, 1)
    assert "40×30 → 120×90" in page.inner_text("li")
    page.wait_for_selector("#stage:not([hidden])")
    name, result = saved(page, "li button:text('Save')")
    assert (name, result) == ("a photo_x3.png", command_line(data, tmp_path))


def test_the_browser_alone_gives_the_pixels_of_the_command_line(
    offline_page: Any, tmp_path: Path
) -> None:
    profile = b"a profile" * 20
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 1
    # Coloured everywhere: in grey areas, the command line takes back the tints of the network.
    colours = np.random.default_rng(0).integers(0, 256, (70, 700, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).save(stream, "PNG", exif=exif, icc_profile=profile)
    drop(offline_page, ("wide.png", stream.getvalue()))
    finish(offline_page, 1)
    name, result = saved(offline_page, "li button:text('Save')")
    assert name == "wide_x3.png"
    expected = pixels(command_line(stream.getvalue(), tmp_path))
    np.testing.assert_array_equal(pixels(result)[..., :3], expected)
    made = Image.open(io.BytesIO(result))
    assert made.info["icc_profile"] == profile
    assert made.getexif()[0x010E] == "a description"
    grey = np.repeat(colours[:40, :50, :1], 3, axis=2)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG")
    drop(offline_page, ("grey.png", stream.getvalue()))
    finish(offline_page, 2)
    _, result = saved(offline_page, "li:last-child button:text('Save')")
    expected = pixels(command_line(stream.getvalue(), tmp_path))
    np.testing.assert_array_equal(pixels(result)[..., :3], expected)


def test_the_browser_keeps_profile_exif_and_orientation(offline_page: Any, tmp_path: Path) -> None:
    profile = b"profile " * 10_000
    kinds = {".jpg": "JPEG", ".webp": "WEBP", ".png": "PNG"}
    cases = [(".jpg", 6), (".webp", 6), (".png", 6), (".jpg", 2), (".webp", 7)]
    for count, (suffix, orientation) in enumerate(cases):
        exif = Image.Exif()
        exif[0x010E], exif[0x0112] = "a description", orientation
        stream = io.BytesIO()
        image = Image.fromarray(sample_image(30, 40, seed=0))
        image.save(stream, kinds[suffix], exif=exif, icc_profile=profile, quality=100)
        drop(offline_page, (f"photo{suffix}", stream.getvalue()))
        finish(offline_page, count + 1)
        name, result = saved(offline_page, "li:last-child button:text('Save')")
        made = Image.open(io.BytesIO(result))
        expected = Image.open(io.BytesIO(command_line(stream.getvalue(), tmp_path, suffix)))
        made.load()
        assert (name, made.format) == (f"photo_x3{suffix}", kinds[suffix])
        assert made.info["icc_profile"] == profile
        assert dict(made.getexif()) == {0x010E: "a description", 0x0112: 1}
        # Encoders differ; another orientation would be far off.
        difference = np.asarray(made.convert("RGB"), float) - np.asarray(expected.convert("RGB"))
        assert np.abs(difference).mean() < (0.01 if suffix == ".png" else 4), (suffix, orientation)


def test_transparency_survives_in_the_browser(offline_page: Any, tmp_path: Path) -> None:
    rgba = np.dstack([sample_image(24, 32, seed=3), np.full((24, 32), 255, np.uint8)])
    rgba[:, :9, 3] = 0
    rgba[:, 9:12, 3] = 128
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, "PNG")
    drop(offline_page, ("clear.png", stream.getvalue()))
    finish(offline_page, 1)
    _, result = saved(offline_page, "li button:text('Save')")
    made, expected = pixels(result), pixels(command_line(stream.getvalue(), tmp_path))
    difference = np.abs(made.astype(int) - expected)
    assert difference[..., 3].max() <= 1
    visible = expected[..., 3] > 200
    # The canvas rounds half-transparent colours by a level, and the network sharpens that.
    assert difference[visible].max() <= 4
    assert (difference[visible] > 2).mean() < 0.01
    assert "transparent" in offline_page.inner_text("#caption")


def test_folders_archives_errors_and_a_zip_of_all(page: Any) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("book/1.png", png(20, 21))
        archive.writestr("book/2.png", png(22, 23))
        archive.writestr("book/3.dib", dib())
        archive.writestr("book/notes.txt", "no image")
        archive.writestr("__MACOSX/._1.png", "no image")
    drop(page, ("a.png", png()), ("b.cbz", stream.getvalue()), ("bad.png", b"no image"),
         ("broken.zip", b"no zip"))  # fmt: skip
    finish(page, 6)
    assert page.locator("li.done").count() == 4
    errors = page.locator("li.failed .state").all_inner_texts()
    assert any("bad.png is not a PNG" in error for error in errors)
    assert any("zip is damaged" in error for error in errors)
    assert "1 file is no image" in page.inner_text("#summary")
    name, result = saved(page, "#save-all")
    assert name == "upscaled.zip"
    with zipfile.ZipFile(io.BytesIO(result)) as archive:
        assert archive.testzip() is None
        names = ["a_x3.png", "book/1_x3.png", "book/2_x3.png", "book/3_x3.dib"]
        assert sorted(archive.namelist()) == names
    page.click("#clear")
    assert page.locator("li").count() == 0


def test_a_video_is_upscaled_and_played(page: Any, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from helpers.videos import make_video, moving

    film = make_video(tmp_path / "film.mp4", moving(4))
    page.click("label:has(input[value=custom])")
    page.select_option("#format", "webp")  # for images
    page.set_input_files("#files", str(film))
    page.wait_for_selector("li .thumb canvas", state="attached")
    finish(page, 1)
    assert "2, 3 or 4 times" in page.inner_text("li.failed .state")
    page.click("label:has(input[value='3'])")
    page.click("li button:text('Try again')")
    page.click("li.done button:text('Play')")
    assert "chosen format is for images" in page.inner_text("#caption")
    page.wait_for_selector("#film video")
    name, result = saved(page, "li button:text('Save')")
    assert (name, result[4:8]) == ("film_x3.mp4", b"ftyp")


def test_a_pasted_image_in_another_size_and_format(page: Any, tmp_path: Path) -> None:
    page.click("label:has(input[value=custom])")
    page.fill("#width", "100")
    page.fill("#height", "100")
    page.select_option("#format", "webp")
    data = png()
    page.evaluate(PASTE, list(data))
    finish(page, 1)
    name, result = saved(page, "li button:text('Save')")
    assert name == "image_100x100.webp"
    assert Image.open(io.BytesIO(result)).size == (100, 75)


def test_cancel_one_and_all_and_try_again(page: Any, server: Server) -> None:
    held = []

    def hold(route: Any) -> None:
        """Keep the page from seeing that a job is done, however fast it is."""
        if route.request.method == "GET":
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/jobs/*", hold)
    drop(page, *((f"{number}.png", png()) for number in range(4)))
    page.click("li button:text('Cancel')")
    page.wait_for_selector("li:first-child.cancelled")
    page.click("#cancel-all")
    page.wait_for_function("document.querySelectorAll('li.cancelled').length === 4")
    page.unroute("**/api/jobs/*")
    end = time.monotonic() + 30
    while jobs := json.load(urlopen(f"{server.address}api/jobs"))["jobs"]:
        assert time.monotonic() < end, f"the server goes on with {jobs}"
        page.wait_for_timeout(20)
    assert "4 cancelled" in page.inner_text("#summary")
    page.click("li button:text('Try again')")
    finish(page, 1)
    assert page.locator("li.done").count() == 1
    page.click("button:text('Do the 3 cancelled ones')")
    finish(page, 4)
    assert page.locator("li.done").count() == 4


def test_slider_zoom_and_keyboard_only(page: Any) -> None:
    drop(page, ("a.png", png(200, 300)))
    finish(page, 1)
    page.wait_for_selector("#stage:not([hidden])")
    page.focus("#slider")
    page.keyboard.press("Home")
    assert page.get_attribute("#slider", "aria-valuenow") == "0"
    page.keyboard.press("PageUp")
    assert page.get_attribute("#slider", "aria-valuenow") == "10"
    box = page.locator("#stage").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(*middle)
    assert page.get_attribute("#slider", "aria-valuenow") == "50"
    page.click("#zoom button:text('4×')")
    assert page.get_attribute("#zoom button:text('4×')", "aria-pressed") == "true"
    moved = "getComputedStyle(document.querySelector('#right img')).transform"
    before = page.evaluate(moved)
    page.mouse.move(middle[0] + 150, middle[1])  # beside the divider
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 40)
    page.mouse.up()
    assert page.evaluate(moved) != before
    page.mouse.wheel(0, 2000)
    page.focus("#stage")
    for _ in range(12):
        page.keyboard.press("-")
    assert page.get_attribute("#zoom button:text('1×')", "aria-pressed") == "true"  # it fits
    page.click("#zoom button:text('Fit')")
    assert page.get_attribute("#zoom button:text('Fit')", "aria-pressed") == "true"
    # From the top of the page to the list with the Tab key alone.
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert {"choose", "choose-folder", "format", "stage", "slider", "Save a.png"} <= reached


def test_fingers_move_the_divider_zoom_and_pan(browser: Chromium, server: Server) -> None:
    with opened(browser, server.address, **NARROW) as page:
        drop(page, ("a.png", png(200, 300)))
        finish(page, 1)
        page.wait_for_selector("#stage:not([hidden])")
        # Before the gestures: Chromium may take a tap after one for its end.
        page.tap("li button:text('Compare')")  # far below the stage, to which it leads
        end = time.monotonic() + 10
        while True:
            top, bottom = page.evaluate(
                "(({ top, bottom }) => [top, bottom])(stage.getBoundingClientRect())"
            )
            if 0 <= top < bottom <= page.viewport_size["height"]:
                break
            assert time.monotonic() < end, f"the stage is at {top} to {bottom}"
            page.wait_for_timeout(20)
        page.evaluate("scrollTo(0, 0)")
        session = page.context.new_cdp_session(page)
        box = page.locator("#stage").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def touch(*steps: list[tuple[float, float]]) -> None:
            before = 0
            for fingers in [*steps, []]:
                kind = "touchMove" if len(fingers) == before else "touchStart"
                before = len(fingers)
                points = [{"x": x + dx, "y": y + dy, "id": i} for i, (dx, dy) in enumerate(fingers)]
                kind = kind if fingers else "touchEnd"
                session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        def scale_and_corner() -> tuple[float, float]:
            text = page.evaluate("getComputedStyle(document.querySelector('#right img')).transform")
            numbers = [float(number) for number in text[7:-1].split(",")]
            return numbers[0], numbers[4]

        touch([(-10, 0)], [(-50, 0)], [(-90, 0)])
        divider = page.get_attribute("#slider", "aria-valuenow")
        assert divider == "25"
        before, _ = scale_and_corner()
        touch([(-20, 0)], [(-20, 0), (20, 0)], [(-60, 0), (60, 0)], [(-90, 0), (90, 0)])
        larger, corner = scale_and_corner()
        assert larger == pytest.approx(4.5 * before, rel=0.15)
        assert page.get_attribute("#slider", "aria-valuenow") == divider
        touch([(60, 20)], [(30, 20)], [(0, 20)])
        assert scale_and_corner() == (larger, pytest.approx(corner - 60, abs=1))
        assert page.evaluate("[scrollY, visualViewport.scale]") == [0, 1]


def test_without_a_network_after_the_first_visit(browser: Chromium, static: str) -> None:
    with opened(browser, static) as page:
        page.evaluate("navigator.serviceWorker.ready")
        # The page's policy forbids the eval that `wait_for_function` polls with.
        while not page.evaluate("navigator.serviceWorker.controller !== null"):
            page.wait_for_timeout(50)
        loaded = page.evaluate(
            "performance.getEntriesByType('resource').reduce((n, e) => n + e.encodedBodySize, 0)"
        )
        assert loaded < 150_000
        page.context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-ready]")
        drop(page, ("a.png", png()))
        finish(page, 1)
        assert page.locator("li.done").count() == 1


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark", **NARROW}])
def test_axe_finds_nothing_and_narrow_screens_need_no_sideways_scrolling(
    browser: Chromium, server: Server, options: dict[str, Any]
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs anchorsr[dev]: axe"
    ).Axe()
    with opened(browser, server.address, **options) as page:
        if options:
            assert axe.run(page).violations_count == 0
        drop(page, ("a photo with a rather long name that has to be cut.png", png()),
             ("bad.png", b"no image"))  # fmt: skip
        finish(page, 2)
        page.wait_for_selector("#stage:not([hidden])")
        if options:
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()


def test_a_hung_browser_fails_one_test_only(running_browser: Chromium) -> None:
    with running_browser.limit(SECONDS):
        running_browser.new_context()
    late = pytest.raises(pytest.fail.Exception, match="longer than 3 seconds")
    with late, running_browser.limit(3):
        page = running_browser.new_context().new_page()
        with pytest.raises(Exception, match="closed"):
            page.evaluate("new Promise(() => {})")
    with running_browser.limit(SECONDS):
        assert running_browser.new_context().new_page().evaluate("1 + 1") == 2


def test_the_page_needs_the_token_beyond_loopback(page: Any) -> None:
    page.route("**/api/**", lambda route: route.fulfill(status=401, body="{}"))
    drop(page, ("a.png", png()))
    finish(page, 1)
    assert "token" in page.inner_text("li.failed .state")


def test_a_batch_of_fifty(page: Any) -> None:
    page.click("label:has(input[value='2'])")
    drop(page, *((f"{number}.png", png(8 + number % 9, 12)) for number in range(50)))
    finish(page, 50)
    assert page.locator("li.done").count() == 50


@pytest.mark.skipif("ANCHORSR_LARGE" not in os.environ, reason="needs ANCHORSR_LARGE=1")
@pytest.mark.parametrize(("height", "width"), [(1000, 1000), (2000, 2000), (4000, 6000)])
def test_large_images(page: Any, height: int, width: int) -> None:
    page.click("label:has(input[value='2'])")
    stream = io.BytesIO()
    gradient = np.add.outer(np.arange(height), np.arange(width)) % 256
    Image.fromarray(gradient.astype(np.uint8)).convert("RGB").save(stream, "JPEG")
    drop(page, ("large.jpg", stream.getvalue()))
    finish(page, 1)
    assert page.locator("li.done").count() == 1
    page.wait_for_selector("#stage:not([hidden])")
