"""The progress of a run: one bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from captum_sgcampp._captum import NullProgress, progress

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 5.0
"""How often to count what other processes have done."""


class Progress:
    """Shows how many images of the whole run are done, by all processes.

    Args:
        n_images: The number of all images.
        done_by_others: Counts the images that other processes have done.
        shown: Whether to show anything; one process does.
    """

    def __init__(self, n_images: int, done_by_others: Callable[[], int], *, shown: bool) -> None:
        self._n_images, self._done_by_others = n_images, done_by_others
        self._own = self._failed = self._others = self._shown = 0
        self._last_look = -SECONDS_BETWEEN_LOOKS
        self._bar: Any = _bar(n_images) if shown else NullProgress()
        self._is_shown = shown

    def skip(self, n_images: int) -> None:
        """Counts images that were done before."""
        if self._is_shown:
            self._bar.initial += n_images  # they do not count for the speed
        self.add(n_images)

    def add(self, n_images: int, n_failed: int = 0) -> None:
        """Counts images that this process has done."""
        if not self._is_shown:
            return
        self._own += n_images
        self._failed += n_failed
        now = time.monotonic()
        if now - self._last_look >= SECONDS_BETWEEN_LOOKS:
            self._others, self._last_look = self._done_by_others(), now
        if self._failed:
            self._bar.set_postfix_str(f"{self._failed} without a map", refresh=False)
        done = min(self._own + self._others, self._n_images)
        if done > self._shown:
            self._bar.update(done - self._shown)
            self._shown = done

    def close(self) -> None:
        """Shows the last number."""
        self._bar.close()


class _Lines:
    """A stream that gets a line for each state of a bar, instead of one that is overwritten."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self._stream.write(text.strip() + "\n")

    def flush(self) -> None:
        self._stream.flush()


def _bar(n_images: int) -> Any:
    options: dict[str, Any] = {"total": n_images, "desc": "Images", "unit": "image", "smoothing": 0}
    if not sys.stderr.isatty():
        options |= {
            "file": _Lines(sys.stderr),
            "mininterval": SECONDS_BETWEEN_LINES,
            "miniters": 1,
            "bar_format": "{desc}: {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left, {rate_fmt}{postfix}",
        }
    return progress(**options)
