"""Bodies on the wire: what we send compressed, and what they send inflated no further than its cap.

Both clients could inflate by themselves. But how much one read may grow to differs between them and from release to
release, and a few kilobytes of zeros must not become gigabytes before anybody counts.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterable, AsyncIterator

from connectors.errors import Ambiguous

COMPRESS_FROM_BYTES = 1 << 10
_STEP_BYTES = 256 << 10
_BEST_FOR_ITS_TIME = 5


def compressed(content: bytes) -> bytes | None:
    """The body as gzip, the same bytes every time; None for one that is too small to be worth it."""
    if len(content) <= COMPRESS_FROM_BYTES:
        return None
    return gzip.compress(content, _BEST_FOR_ITS_TIME, mtime=0)


async def read(chunks: AsyncIterable[bytes], encoding: str | None, cap_bytes: int) -> bytes:
    """A whole body, inflated as its `Content-Encoding` says.

    Raises:
        Ambiguous: as `pieces`.
    """
    kept = [piece async for piece in pieces(chunks, encoding, cap_bytes)]
    return kept[0] if len(kept) == 1 else b"".join(kept)


async def pieces(chunks: AsyncIterable[bytes], encoding: str | None, cap_bytes: int) -> AsyncIterator[bytes]:
    """A body as it comes, inflated as its `Content-Encoding` says; small pieces, of a large one too.

    Raises:
        Ambiguous: `answer_too_large` as soon as it is larger than its cap; `answer_unreadable` when it is broken, or in
            an encoding that nobody asked for.
    """
    coding = (encoding or "identity").strip().lower()
    size = packed = 0
    inflate = None if coding == "identity" else _Inflate(coding)
    async for chunk in chunks:
        packed += len(chunk)  # counts too: nothing can be compressed into endlessly many bytes
        rest = chunk
        while rest:
            piece, rest = (rest, b"") if inflate is None else inflate.step(rest)
            size += len(piece)
            if size > cap_bytes or packed > cap_bytes + COMPRESS_FROM_BYTES:
                raise Ambiguous("answer_too_large", f"the answer has more than {cap_bytes} bytes")
            yield piece
    if inflate is not None:
        inflate.end()


class _Inflate:
    """gzip (several members too), zlib, and the deflate without a header that some servers send."""

    def __init__(self, coding: str) -> None:
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise _unreadable("it is in an encoding that was not asked for")
        self._zipped = coding != "deflate"
        self._engine: zlib._Decompress | None = None

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        """What comes of some bytes, at most a step, and the bytes that are left."""
        if self._engine is None or self._engine.eof:
            headless = not self._zipped and data[0] & 0xF != 8
            self._engine = zlib.decompressobj(31 if self._zipped else -15 if headless else 15)
        try:
            piece = self._engine.decompress(data, _STEP_BYTES)
        except zlib.error:
            raise _unreadable("its compression is broken") from None
        return piece, self._engine.unused_data if self._engine.eof else self._engine.unconsumed_tail

    def end(self) -> None:
        """All bytes were there."""
        if self._engine is not None and not self._engine.eof:
            raise _unreadable("its compression ends too early")


def _unreadable(why: str) -> Ambiguous:
    return Ambiguous("answer_unreadable", f"the answer cannot be read: {why}")
