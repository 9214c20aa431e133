"""Try again what a store refuses for the moment, later and later."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")

# With these, a store may be unreachable for about two minutes.
TRIES = 9
_FIRST_SECONDS = 0.25
_MOST_SECONDS = 30.0

# What stores answer for good, where they give no HTTP status.
_FINAL = (
    "access denied",
    "access_denied",
    "accessdenied",
    "authentication",
    "base64",  # a mistyped key
    "credentials",
    "forbidden",
    "invalid_access_key",
    "invalidaccesskeyid",
    "no_such_bucket",
    "no_such_key",
    "nosuchbucket",
    "nosuchkey",
    "not found",
    "permanent error",
    "permission",
    "signature",
    "unauthorized",
)
_STATUS = re.compile(
    r"(?:\bHTTP (?:status|response)(?: code)?:?|Azure Error: \[\w*\]) (\d{3})\b", re.IGNORECASE
)
_PASSING = {408, 425, 429, 500, 502, 503, 504}


def is_passing(error: BaseException) -> bool:
    """Return whether what failed may succeed later: throttling, errors of the server, timeouts."""
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
        return False
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return False
    if not isinstance(error, OSError | TimeoutError):
        return False
    status = _STATUS.search(str(error))
    if status is not None:
        return int(status[1]) in _PASSING
    text = str(error).lower()
    return not any(words in text for words in _FINAL)


def retrying(
    action: Callable[[], _Result],
    *,
    tries: int = TRIES,
    sleep: Callable[[float], None] = time.sleep,
) -> _Result:
    """Return what an action returns; repeat it after errors that may pass.

    Pauses double from a quarter of a second to half a minute. Each is lengthened or shortened at
    random by up to a half, so that many workers do not come back all at once.

    Args:
        action: What to do; it must be safe to do twice.
        tries: How often, at most.
        sleep: How to wait.

    Raises:
        OSError: The last error, or the first that will not pass.
    """
    for number in range(tries):
        try:
            return action()
        except Exception as error:
            if number + 1 == tries or not is_passing(error):
                raise
            pause = min(_FIRST_SECONDS * 2**number, _MOST_SECONDS)
            sleep(pause * random.uniform(0.5, 1.5))
    raise AssertionError("tries is at least 1")
