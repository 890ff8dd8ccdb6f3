"""Fetches locked files: in parallel, resumed after a break, checked by SHA-256, put in place by an atomic rename.

A file under its final name has been verified; anything else ends in `.part` and is continued by the next attempt.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

import httpx

from schemas.problems import Problem
from streams.stack.jarlock import Jar

ATTEMPTS: Final = 4
FIRST_PAUSE_S = 0.5
"""Doubled with each attempt."""
TIMEOUT_S: Final = 30.0

Advance = Callable[[int], None]
"""Told how many bytes came in; negative when bytes turned out to be worthless."""


class Progress(Protocol):
    """What shows a person how far the download is."""

    def start(self, files: int, size: int) -> None:
        """Before the first byte: how much there is to fetch."""

    def advance(self, size: int) -> None:
        """Called from several threads."""

    def finish(self) -> None:
        """After the last byte, or when a download failed."""


def fetch_all(jars: Iterable[Jar], into: Path, base_url: str, *, threads: int, progress: Progress) -> None:
    """Bring every jar that is not there yet to its place under `into`.

    Raises:
        Problem: `download_failed` or `download_mismatch`, for the first file that could not be had.
    """
    missing = [jar for jar in jars if not _has(into / jar.path, jar)]
    if not missing:
        return
    # The largest first: otherwise the one big archive runs alone at the end.
    missing.sort(key=lambda jar: -jar.size)
    progress.start(len(missing), sum(jar.size for jar in missing))
    stopped = threading.Event()
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="download")
    try:
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
            work = [pool.submit(_fetch, client, jar, into, base_url, progress.advance, stopped) for jar in missing]
            try:
                for one in work:
                    one.result()
            except BaseException:
                # Also on Ctrl-C: threads look at the event between chunks, so the wait below is short.
                stopped.set()
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        progress.finish()


def _fetch(
    client: httpx.Client, jar: Jar, into: Path, base_url: str, advance: Advance, stopped: threading.Event
) -> Path:
    target = into / jar.path
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    url = f"{base_url.rstrip('/')}/{jar.path}"
    cause = ""
    for attempt in range(ATTEMPTS):
        if attempt and stopped.wait(FIRST_PAUSE_S * 2**attempt):
            break
        try:
            _continue(client, url, part, jar, advance, stopped)
        except (httpx.HTTPError, OSError) as error:
            cause = f"{type(error).__name__}: {error}"
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in {401, 403, 404}:
                break
            continue
        if stopped.is_set():
            break
        if sha256(part) == jar.sha256:
            part.replace(target)
            return target
        advance(-part.stat().st_size)
        part.unlink()
        cause = ""
    if stopped.is_set():
        raise Problem("download_failed", f"the download of {jar.file} was stopped")
    if cause:
        raise Problem(
            "download_failed",
            f"{url} could not be downloaded: {cause}",
            "Check the network and run it again: what has arrived is kept. SYNCLINE_MAVEN_URL names a mirror.",
        )
    raise Problem(
        "download_mismatch",
        f"{url} is not the file of the lock: its SHA-256 or its size differs",
        "Something between here and the repository changes files; set SYNCLINE_MAVEN_URL to a source you trust.",
    )


def _continue(client: httpx.Client, url: str, part: Path, jar: Jar, advance: Advance, stopped: threading.Event) -> None:
    """Append what is missing of `part`."""
    have = part.stat().st_size if part.exists() else 0
    if have > jar.size:
        part.unlink()
        have = 0
    if have == jar.size:
        advance(have)
        return
    # identity: a compressed answer would not be the file the lock knows.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    received = 0
    try:
        with client.stream("GET", url, headers=headers) as response:
            response.raise_for_status()
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            received = have
            advance(have)
            with part.open("ab" if have else "wb") as file:
                for chunk in response.iter_raw():
                    # A captive portal or a wrong mirror may answer without end.
                    if received + len(chunk) > jar.size or stopped.is_set():
                        break
                    file.write(chunk)
                    received += len(chunk)
                    advance(len(chunk))
    except (httpx.HTTPError, OSError):
        advance(-received)  # the next attempt counts what it finds
        raise


def sha256(path: Path) -> str:
    """Hash of a file, without reading it whole into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has(path: Path, jar: Jar) -> bool:
    return path.exists() and path.stat().st_size == jar.size


class Silent:
    """No progress, for tests and for programs."""

    def start(self, files: int, size: int) -> None:
        """Nothing to show."""

    def advance(self, size: int) -> None:
        """Nothing to show."""

    def finish(self) -> None:
        """Nothing to show."""


class Lines:
    """Progress as lines of text, one for every tenth or every ten seconds, for logs and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._total = self._done = self._shown = 0
        self._last = 0.0

    def start(self, files: int, size: int) -> None:
        """Announce the download."""
        self._total, self._last = size, time.monotonic()
        self._write(f"downloading {files} files, {size / 2**20:.0f} MiB (once; kept in the cache)")

    def advance(self, size: int) -> None:
        """Write a line when enough has come in."""
        with self._lock:
            self._done += size
            tenth = 10 * self._done // max(self._total, 1)
            if tenth > self._shown or time.monotonic() - self._last > 10:
                self._shown, self._last = max(tenth, self._shown), time.monotonic()
                self._write(f"downloaded {self._done / 2**20:.0f} of {self._total / 2**20:.0f} MiB")

    def finish(self) -> None:
        """The last line came with the last byte."""
