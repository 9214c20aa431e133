"""The page that compares: what is in it, and what it does in a real browser."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchorsr.cli import app
from anchorsr.data.imresize import downscale
from anchorsr.errors import ImageError, ModelError, OutputError
from anchorsr.evaluation.compare import Comparison, Side, compare, page, page_path, upscale_bicubic
from anchorsr.evaluation.evaluate import load_method
from anchorsr.images.io import RasterImage, encode_image, read_image, write_image
from anchorsr.inference.upscaler import Upscaler
from anchorsr.metrics import psnr
from anchorsr.models.registry import DEFAULT
from helpers.chromium import Chromium
from helpers.graphs import image

EMPTY_TAGS = {"meta", "link", "img"}


class Page(HTMLParser):
    """The elements of a page with their attributes; fails where they do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY_TAGS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["script"], ["style"]):
            self.text += " ".join(data.split()) + " "

    def images(self) -> list[Image.Image]:
        """The embedded images, decoded."""
        found = []
        for tag, attributes in self.elements:
            if tag == "img":
                data = base64.b64decode(attributes["src"].partition(";base64,")[2], validate=True)
                found.append(Image.open(io.BytesIO(data)))
                assert found[-1].size == (int(attributes["width"]), int(attributes["height"]))
        return found


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(threads=1, engine="litert")


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def small(height: int = 20, width: int = 30, channels: int = 3, seed: int = 0) -> np.ndarray:
    return image(seed, height, width, channels)[0]


def made_up(array: np.ndarray, name: str = "a.png", label: str = "mine") -> Comparison:
    """A comparison of an image with its negative."""
    sides = (
        Side(text, RasterImage(pixels), 1000, 0.5, None)
        for text, pixels in (("bicubic", array), (label, 255 - array))
    )
    size = (array.shape[0] // 3, array.shape[1] // 3)
    return Comparison(name, size, 999, 3, "litert", ".png", *sides)


# What is compared


def test_both_sides_are_those_of_the_methods(tmp_path: Path, upscaler: Upscaler) -> None:
    rgb = small()
    source = save(tmp_path / "a.png", rgb)
    result = compare(source, upscaler)
    np.testing.assert_array_equal(result.bicubic.image.rgb, load_method("bicubic", 3)(rgb))
    np.testing.assert_array_equal(result.model.image.rgb, load_method(DEFAULT, 3)(rgb))
    assert (result.size, result.factor) == ((20, 30), 3)
    assert result.source_bytes == source.stat().st_size
    assert result.model.seconds > 0
    assert result.bicubic.psnr is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".JPG"])
def test_sizes_are_those_of_saved_files(tmp_path: Path, upscaler: Upscaler, suffix: str) -> None:
    kind = {".JPG": "JPEG", ".jpg": "JPEG"}.get(suffix, suffix[1:])
    result = compare(save(tmp_path / f"a{suffix}", small(), format=kind), upscaler)
    for side in (result.bicubic, result.model):
        saved = encode_image(Path(f"b{suffix}"), side.image)
        assert side.file_bytes == len(saved)
    assert result.saved_as == suffix.lower()


def test_a_result_too_long_for_its_format_is_measured_as_png(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    result = compare(save(tmp_path / "a.webp", small(2, 5462)), upscaler)
    assert result.saved_as == ".png"


def test_alpha_is_resized_and_shown(tmp_path: Path, upscaler: Upscaler) -> None:
    rgba = small(channels=4)
    result = compare(save(tmp_path / "a.png", rgba), upscaler)
    whole = np.asarray(Image.fromarray(rgba).resize((90, 60), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(result.bicubic.image.rgb, whole[:, :, :3])
    shown = Page(page(result)).images()
    np.testing.assert_array_equal(np.asarray(shown[0]), whole)
    assert shown[1].mode == "RGBA"


def test_grey_stays_grey(tmp_path: Path, upscaler: Upscaler) -> None:
    result = compare(save(tmp_path / "a.png", small()[:, :, 0]), upscaler)
    for side in (result.bicubic, result.model):
        assert (side.image.rgb == side.image.rgb[:, :, :1]).all()


def test_sixteen_bits_are_compared_in_eight(tmp_path: Path, upscaler: Upscaler) -> None:
    """That is what a page shows; 257 times 8 bits are the same in 16."""
    rgb, alpha, larger = small(), small(channels=1)[:, :, 0], small(60, 90)
    for name, many in (("8", np.uint8(1)), ("16", np.uint16(257))):
        write_image(tmp_path / f"{name}.png", RasterImage(rgb * many, alpha * many))
        write_image(tmp_path / f"{name}_larger.png", RasterImage(larger * many))
    one, other = (
        compare(tmp_path / f"{name}.png", upscaler, original=tmp_path / f"{name}_larger.png")
        for name in ("8", "16")
    )
    for first, second in ((one.bicubic, other.bicubic), (one.model, other.model)):
        np.testing.assert_array_equal(first.image.rgb, second.image.rgb)
        np.testing.assert_array_equal(first.image.alpha, second.image.alpha)
        assert first.psnr == second.psnr
    assert len(Page(page(other)).images()) == 3


def test_psnr_is_against_the_original(tmp_path: Path, upscaler: Upscaler, dog: np.ndarray) -> None:
    cut = dog[:120, :99]
    original = save(tmp_path / "large.png", dog[:122, :100])  # a rest is cut off
    result = compare(save(tmp_path / "a.png", downscale(cut, 3)), upscaler, original=original)
    for side in (result.bicubic, result.model):
        assert side.psnr is not None
        assert side.psnr[0] == psnr(side.image.rgb, cut, border=3)
    text = Page(page(result))
    np.testing.assert_array_equal(np.asarray(text.images()[1]), cut)
    assert f"{result.model.psnr[0]:.3f} dB" in text.text
    assert "without 3 pixels at each edge" in text.text


# The page


def test_the_page_holds_exactly_the_pixels(tmp_path: Path, upscaler: Upscaler) -> None:
    result = compare(save(tmp_path / "a.png", small()), upscaler)
    text = Page(page(result))
    left, right = text.images()
    np.testing.assert_array_equal(np.asarray(left), result.bicubic.image.rgb)
    np.testing.assert_array_equal(np.asarray(right), result.model.image.rgb)
    for words in ("30 × 20", "90 × 60", f"{DEFAULT}_x3", "litert", f"{result.model.seconds:.3f} s"):
        assert words in text.text


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    written = page(made_up(small()))
    for tag, attributes in Page(written).elements:
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert "//" not in re.sub(r"(?m)(^|\s)// .*$", "", re.sub('"data:[^"]*"', "", written))
    assert "default-src 'none'" in written
    assert "{{" not in written


def test_names_are_text_and_nothing_else() -> None:
    evil = "\"'><img onerror=alert(1) src=x>{{left}}&amp;</title><script>.png"
    written = page(made_up(small(), name=evil, label=f"</td>{evil}"))
    plain = page(made_up(small()))
    assert [e[0] for e in Page(written).elements] == [e[0] for e in Page(plain).elements]
    assert evil in Page(written).text
    images = [attributes for tag, attributes in Page(written).elements if tag == "img"]
    assert images[1]["alt"] == f"</td>{evil}"
    assert not any("onerror" in attributes for _, attributes in Page(written).elements)


def test_a_name_that_is_no_text_does_not_matter() -> None:
    written = page(made_up(small(), name="\udcff.png"))
    assert "?.png" in written.encode().decode()


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_the_colour_profile_goes_along_and_where_a_photo_was_taken_does_not(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageCms

    if kind == "JPEG":
        monkeypatch.setattr("anchorsr.evaluation.compare._MOST_BYTES", 100)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result = made_up(small())
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>where I live</x:xmpmeta>"
    rgb = result.bicubic.image.rgb
    told = RasterImage(rgb, icc_profile=profile, exif=exif.tobytes(), xmp=xmp)
    side = Side("bicubic", told, 1, 1.0, None)
    written = Page(page(Comparison("a", (6, 10), 1, 3, "litert", ".png", side, result.model)))
    shown = written.images()[0]
    assert (shown.format, shown.info["icc_profile"]) == (kind, profile)
    assert not {"exif", "xmp"} & shown.info.keys()


def test_what_is_too_large_is_cut_and_lossy(
    monkeypatch: pytest.MonkeyPatch, dog: np.ndarray
) -> None:
    monkeypatch.setattr("anchorsr.evaluation.compare._MOST_PIXELS", 20_000)
    monkeypatch.setattr("anchorsr.evaluation.compare._MOST_BYTES", 40_000)
    large = dog[:144]
    text = Page(page(made_up(large)))
    left, right = text.images()
    assert (left.format, left.size) == (right.format, right.size) == ("JPEG", (200, 100))
    difference = np.asarray(left).astype(int) - large[22:122, 44:244]
    assert np.abs(difference).mean() < 2
    assert "the central 200 × 100 of 288 × 144 pixels" in text.text
    assert "JPEG of quality 95" in text.text
    monkeypatch.setattr("anchorsr.evaluation.compare._MOST_BYTES", 1000)
    assert "JPEG of quality 75" in page(made_up(large))


@pytest.mark.slow
def test_a_page_of_24_megapixels_is_of_a_reasonable_size(dog: np.ndarray) -> None:
    """Photographic detail and noise of single pixels, more than an enlarged image has."""
    tiles = np.tile(dog, (14, 21, 1))[:4000, :6000]
    tiles ^= np.random.default_rng(0).integers(4, size=tiles.shape, dtype=np.uint8)
    written = page(made_up(tiles))
    assert len(written) < 30_000_000
    shown = Page(written).images()[0]
    assert (shown.format, shown.size) == ("JPEG", (6000, 4000))


# Names and mistakes


def test_the_page_is_beside_the_image(tmp_path: Path) -> None:
    assert page_path(tmp_path / "a.b.jpg", None, inputs=[]) == tmp_path / "a.b_compare.html"
    assert page_path(Path("a.jpg"), Path("b.HTM"), inputs=[]) == Path("b.HTM")
    with pytest.raises(OutputError, match=r"b\.jpg does not end with \.html"):
        page_path(Path("a.jpg"), Path("b.jpg"), inputs=[])


def test_an_input_is_not_replaced(tmp_path: Path, upscaler: Upscaler) -> None:
    odd = save(tmp_path / "a.html", small(), format="png")
    os.symlink(odd, tmp_path / "b.html")
    for name in ("a.html", "b.html"):
        with pytest.raises(OutputError, match="is an input"):
            page_path(odd, tmp_path / name, inputs=[odd])
    assert compare(odd, upscaler).saved_as == ".png"


def test_bad_inputs_are_told(tmp_path: Path, upscaler: Upscaler) -> None:
    good = save(tmp_path / "a.png", small())
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(ImageError, match="not a PNG"):
        compare(tmp_path / "words.png", upscaler)
    with pytest.raises(ImageError, match="is 30x20; 3 times the size of the image is 90x60"):
        compare(good, upscaler, original=good)
    with pytest.raises(ImageError, match="does not exist"):
        compare(good, upscaler, original=tmp_path / "none.png")
    dot = save(tmp_path / "dot.png", small(1, 1))
    with pytest.raises(ImageError, match="too small to measure"):
        compare(dot, upscaler, original=save(tmp_path / "dot3.png", small(3, 3)))
    with pytest.raises(ModelError, match="no model"):
        Upscaler("abpn", 4)


def run(*arguments: object) -> int:
    return app.run(["compare", *map(str, arguments)])


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "a.png", small())
    assert run(source) == 0
    target = tmp_path / "a_compare.html"
    assert capsys.readouterr() == (f"{target}\n", "")
    first = Page(target.read_text(encoding="utf-8")).images()
    np.testing.assert_array_equal(np.asarray(first[0]), upscale_bicubic(read_image(source), 3).rgb)
    target.write_text("mine")
    assert run(source) == 1
    assert "exists already" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert run(source, "--force") == 0
    assert "<!doctype html>" in target.read_text(encoding="utf-8")
    assert run(source, "--force", "-o", source) == 1
    assert run(tmp_path / "none.png") == 1
    assert capsys.readouterr().err.count("error: ") == 2
    assert sorted(os.listdir(tmp_path)) == ["a.png", "a_compare.html"]


# In a browser


@pytest.fixture
def browser(running_browser: Chromium) -> Iterator[Chromium]:
    with running_browser.limit(60):
        yield running_browser


class Tab:
    """A page in the browser, and what it did besides."""

    def __init__(self, browser: Chromium, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 900, "height": 700}, **options})
        self.page = self.context.new_page()
        self.told: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("request", lambda request: self.told.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url)
        self.page.wait_for_function("document.querySelector('#right img').complete")

    def shot(self) -> np.ndarray:
        """The stage as it is on the screen, (H, W, 3)."""
        with Image.open(io.BytesIO(self.page.locator("#stage").screenshot())) as image:
            return np.asarray(image.convert("RGB"))

    def corner(self) -> tuple[float, float, float]:
        """Where the image is in the stage, in screen pixels, and how large a pixel of it is."""
        found = self.page.evaluate(
            """() => {
                const stage = document.getElementById("stage").getBoundingClientRect();
                const image = document.querySelector("#right img");
                const box = image.getBoundingClientRect();
                return [box.x - stage.x, box.y - stage.y, box.width / image.naturalWidth]
                    .map((value) => value * devicePixelRatio);
            }"""
        )
        return found[0], found[1], found[2]

    def split(self) -> int:
        return int(self.page.locator("#slider").get_attribute("aria-valuenow"))

    def pressed(self) -> list[str]:
        return self.page.locator("button[aria-pressed=true]").all_inner_texts()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        box = self.page.locator("#stage").bounding_box()
        mouse = self.page.mouse
        mouse.move(box["x"] + start[0], box["y"] + start[1])
        mouse.down()
        mouse.move(box["x"] + end[0], box["y"] + end[1], steps=4)
        mouse.up()

    def assert_shows(self, left: np.ndarray, right: np.ndarray) -> None:
        """Away from the divider and the labels, the pixels on the screen are the images'."""
        x, y, zoom = self.corner()
        shot = self.shot()
        line = self.split() / 100 * shot.shape[1]
        rows = np.arange(100, shot.shape[0] - 1)  # the last is not a whole one
        columns = np.arange(shot.shape[1])
        columns = columns[np.abs(columns - line) > 90]
        at_y, at_x = np.floor((rows + 0.5 - y) / zoom), np.floor((columns + 0.5 - x) / zoom)
        inside_y = (at_y >= 0) & (at_y < left.shape[0])
        inside_x = (at_x >= 0) & (at_x < left.shape[1])
        rows, at_y = rows[inside_y], at_y[inside_y].astype(int)
        columns, at_x = columns[inside_x], at_x[inside_x].astype(int)
        expected = np.where(
            (columns < line)[None, :, None], left[np.ix_(at_y, at_x)], right[np.ix_(at_y, at_x)]
        )
        assert expected.size > 3000
        np.testing.assert_array_equal(shot[np.ix_(rows, columns)], expected)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two images of which no pixel is equal."""
    array = small(300, 360, seed=4)
    return array, 255 - array


@pytest.fixture
def tab(browser: Chromium, pair: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Iterator[Tab]:
    path = tmp_path / "<img onerror=alert(1)>.html"
    path.write_text(page(made_up(pair[0], name=path.name)), encoding="utf-8")
    opened = Tab(browser, path)
    yield opened
    assert opened.told == [opened.url], "errors, or requests for something else"


@pytest.mark.slow
def test_dragging_the_divider_changes_what_is_seen(
    tab: Tab, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    assert (tab.split(), tab.pressed()) == (50, ["Fit"])
    tab.assert_shows(*pair)
    height = tab.shot().shape[0]
    tab.drag((450, height / 2), (630, height / 2))
    assert tab.split() == 70
    tab.assert_shows(*pair)
    tab.drag((630, 40), (2000, 40))
    assert tab.split() == 100
    tab.drag((100, 300), (315, 300))  # nothing can be moved but the divider
    assert tab.split() == 35
    tab.assert_shows(*pair)


@pytest.mark.slow
def test_the_zoom_buttons_show_whole_pixels_and_dragging_moves_the_image(
    tab: Tab, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    for zoom in (4, 8, 2):
        tab.page.click(f"text={zoom}×")
        assert tab.corner()[2] == zoom
        assert tab.pressed() == [f"{zoom}×"]
        tab.assert_shows(*pair)
    tab.page.click("text=8×")
    x, y, _ = tab.corner()
    tab.drag((200, 200), (270, 150))
    assert tab.corner()[:2] == (x + 70, y - 50)
    assert tab.split() == 50  # the divider keeps its place on the screen
    tab.assert_shows(*pair)
    tab.drag((10, 10), (9000, 9000))
    assert tab.corner()[:2] == (0, 0)
    tab.page.click("text=Fit")
    assert tab.corner()[2] == 1


@pytest.mark.slow
def test_the_wheel_zooms_about_the_pointer(tab: Tab, pair: tuple[np.ndarray, np.ndarray]) -> None:
    box = tab.page.locator("#stage").bounding_box()
    tab.page.click("text=2×")
    x, y, zoom = tab.corner()
    tab.page.mouse.move(box["x"] + 300, box["y"] + 200)
    tab.page.mouse.wheel(0, -200)
    tab.page.wait_for_function("document.querySelector('[data-zoom=\"4\"]').ariaPressed === 'true'")
    after = tab.corner()
    assert after[2] == 2 * zoom
    for place, before, now in ((300, x, after[0]), (200, y, after[1])):
        assert (place - now) / after[2] == pytest.approx((place - before) / zoom, abs=0.2)
    tab.assert_shows(*pair)
    for _ in range(5):
        tab.page.mouse.wheel(0, 500)
    tab.page.wait_for_function("document.querySelector('[data-zoom=\"1\"]').ariaPressed === 'true'")
    assert tab.corner()[2] == 1


@pytest.mark.slow
def test_the_keyboard_is_enough(tab: Tab, pair: tuple[np.ndarray, np.ndarray]) -> None:
    keyboard = tab.page.keyboard
    tab.page.focus("#slider")
    seen = []
    for key in ("ArrowRight", "PageUp", "ArrowLeft", "PageDown", "Home", "ArrowLeft", "End"):
        keyboard.press(key)
        seen.append(tab.split())
    assert seen == [51, 61, 60, 50, 0, 0, 100]
    slider = tab.page.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "100 % bicubic"
    keyboard.press("PageDown")
    tab.assert_shows(*pair)
    tab.page.focus("#stage")
    for key in "+++":
        keyboard.press(key)
    x, y, zoom = tab.corner()
    assert (zoom, tab.pressed()) == (8, ["8×"])
    keyboard.press("ArrowRight")
    keyboard.press("ArrowUp")
    assert tab.corner()[:2] == (x - 60, y + 60)
    keyboard.press("-")
    assert tab.corner()[2] == 4
    tab.page.focus("text=Fit")
    keyboard.press("Enter")
    assert tab.pressed() == ["Fit"]


@pytest.mark.slow
def test_touch_on_a_phone_moves_the_divider(
    browser: Chromium, pair: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(made_up(pair[0])), encoding="utf-8")
    phone = {"viewport": {"width": 360, "height": 640}, "device_scale_factor": 2}
    tab = Tab(browser, path, **phone, has_touch=True, is_mobile=True)
    box = tab.page.locator("#stage").bounding_box()
    session = tab.context.new_cdp_session(tab.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [
            {"x": box["x"] + x, "y": box["y"] + y, "id": i} for i, (x, y) in enumerate(points)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (180, 200))
    touch("touchMove", (90, 200))
    touch("touchEnd")
    assert tab.split() == 25
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    before = tab.corner()[2]
    touch("touchStart", (100, 100), (200, 100))
    touch("touchMove", (50, 100), (250, 100))
    touch("touchEnd")
    assert tab.corner()[2] == pytest.approx(2 * before)
    tab.page.click("text=4×")
    tab.assert_shows(*pair)
    assert tab.told == [tab.url]


@pytest.mark.slow
def test_the_original_can_be_switched_in(
    browser: Chromium, pair: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    result = made_up(pair[0])
    original = pair[0] ^ 85
    path = tmp_path / "page.html"
    sides = (result.bicubic, result.model)
    whole = Comparison("a.png", (100, 120), 9, 3, "litert", ".png", *sides, RasterImage(original))
    path.write_text(page(whole), encoding="utf-8")
    tab = Tab(browser, path)
    tab.assert_shows(*pair)
    tab.page.click("button:text('original')")
    assert tab.pressed() == ["original", "Fit"]
    assert tab.page.locator("#left .tag").inner_text() == "original"
    tab.assert_shows(original, pair[1])
    tab.page.click("button:text('bicubic')")
    tab.assert_shows(*pair)
