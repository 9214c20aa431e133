"""Download data sets from their official address: resumable, verified, unpacked.

DIV2K (Agustsson & Timofte, CVPR workshops 2017; for research only) has 800 training and 100
validation images of 2K. The sizes and digests below are those of the official archives in
TensorFlow Datasets (`url_checksums/div2k.txt`).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import DataError, OutputError
from anchorsr.utils.files import check_folder, make_folder, reason
from anchorsr.utils.locks import FileLocks


@dataclass(frozen=True)
class Archive:
    """A ZIP file of one folder of PNG files.

    Attributes:
        folder: Name of the folder in it, and of the file without its suffix.
        images: Number of PNG files.
        size_bytes: Size of the ZIP file.
        sha256: SHA-256 of the ZIP file.
    """

    folder: str
    images: int
    size_bytes: int
    sha256: str


ADDRESS = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
DIV2K = {
    "train": Archive(
        "DIV2K_train_HR",
        800,
        3_530_603_713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
    "valid": Archive(
        "DIV2K_valid_HR",
        100,
        448_993_893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    ),
}

_BLOCK = 1 << 20
_ATTEMPTS = 5  # in a row without a byte
_TIMEOUT_SECONDS = 60


def download(
    archive: Archive,
    folder: Path,
    *,
    address: str = ADDRESS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Download and unpack an archive, unless its images are there already.

    An interrupted download is resumed. The ZIP file is deleted once it is unpacked.

    Args:
        archive: What to download.
        folder: Where to unpack it; made if missing.
        address: Base URL of the archives.
        on_progress: Called with (bytes received, bytes in all).

    Returns:
        The folder of the images, inside `folder`.

    Raises:
        DataError: The server does not have the archive, or sends something else.
        OutputError: The disk is full or cannot be written.
    """
    target = folder / archive.folder
    if target.is_dir():
        if _count(target) == archive.images:
            return target
        raise DataError(
            f"{target} holds {_count(target)} PNG files, not {archive.images}:"
            " move it away, so that the archive can be unpacked again"
        )
    check_folder(folder)
    make_folder(folder)
    part = folder / f"{archive.folder}.zip.part"
    with FileLocks() as locks:
        if not locks.acquire(part):
            raise OutputError(f"{part} is being downloaded by another process")
        if target.is_dir():  # made by a process that has ended since
            return target
        _check_space(archive, folder, part)
        try:
            _fetch(f"{address.rstrip('/')}/{archive.folder}.zip", part, archive, on_progress)
            _verify(part, archive)
            _unpack(part, archive, target)
        except OSError as error:
            why = reason(error)
            raise OutputError(f"{folder}: {why}; the same command resumes the download") from error
        part.unlink()
        return target


def _count(folder: Path) -> int:
    return sum(path.suffix == ".png" for path in folder.iterdir())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(archive: Archive, folder: Path, part: Path) -> None:
    # PNG files do not compress further, so archive and images take twice its size.
    missing = 2 * archive.size_bytes - _size(part) - shutil.disk_usage(folder).free
    if missing > 0:
        raise OutputError(
            f"{archive.folder} needs {missing / 1e9:.1f} GB more of free space in {folder}"
        )


def _fetch(
    url: str, part: Path, archive: Archive, on_progress: Callable[[int, int], None] | None
) -> None:
    failures = 0
    while (before := _size(part)) < archive.size_bytes:
        problem = "the connection was cut off"
        try:
            _fetch_rest(url, part, archive, on_progress)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.reason}"
            if error.code < 500:
                raise DataError(f"{url}: {problem}") from error
        except http.client.InvalidURL as error:
            raise DataError(f"{url} is not a URL: {reason(error)}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            problem = reason(error)
        except TimeoutError:
            problem = f"no answer for {_TIMEOUT_SECONDS} seconds"
        if _size(part) > before:
            failures = 0
            continue
        failures += 1
        if failures == _ATTEMPTS:
            raise DataError(f"{url}: {problem}; the same command resumes the download")
        time.sleep(2**failures / 10)


def _fetch_rest(
    url: str, part: Path, archive: Archive, on_progress: Callable[[int, int], None] | None
) -> None:
    """Append what is missing in the file, until the connection ends."""
    done = _size(part)
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url} is not a URL: it starts with neither http:// nor https://")
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    except ValueError as error:
        raise DataError(f"{url} is not a URL: {reason(error)}") from error
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if not resumed:
            done = 0  # the server does not support ranges and starts over
        due = archive.size_bytes - done
        if response.length != due:
            length = "an unknown number of" if response.length is None else response.length
            raise DataError(
                f"{url}: the response has {length} bytes, not {due}; is it the page of a proxy or"
                " a login?"
            )
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                done += len(block)
                if on_progress is not None:
                    on_progress(done, archive.size_bytes)


def _verify(part: Path, archive: Archive) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        part.unlink()
        raise DataError(
            f"{archive.folder}.zip differs from the published archive (SHA-256 {digest}) and was"
            " deleted: try again, or check the address"
        )


def _unpack(part: Path, archive: Archive, target: Path) -> None:
    """Unpack beside the target, then move into place."""
    beside = target.with_name(f".{target.name}.tmp")  # the lock keeps other processes away
    shutil.rmtree(beside, ignore_errors=True)  # left by a process that was killed
    try:
        with zipfile.ZipFile(part) as content:
            content.extractall(beside)
        os.rename(beside / archive.folder, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
