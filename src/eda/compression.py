"""The compression of packs: `zstd` of the standard library from Python 3.14 on, else the package `zstandard`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from eda.errors import ConfigError, DecodeError

__all__ = ["check_compression", "compressor", "decompress"]

ZSTD = "zstd"
MAX_WINDOW = 16 * 2**20  # bytes; a pack is never larger, so no frame needs a larger window


def check_compression(name: str, argument: str) -> None:
    """Raise ConfigError unless this process can compress and decompress packs in this way."""
    if name != ZSTD:
        raise ConfigError(f"{argument} must be {ZSTD!r}, not {name!r}", argument=argument)
    try:
        _zstd()
    except ImportError as error:
        raise ConfigError(
            f"packs that are compressed with {name} need the package zstandard, which is not installed: "
            f"pip install 'eda-fast[{name}]' (Python 3.14 has it in its standard library)",
            argument=argument,
        ) from error


def compressor(name: str) -> Callable[[bytes | memoryview], bytes]:
    """Return a function that compresses bytes into one frame. It must not be called from two threads at the same time.

    Raises ConfigError as `check_compression` does.
    """
    check_compression(name, "compression")
    zstd = _zstd()
    if sys.version_info >= (3, 14):
        one = zstd.ZstdCompressor()
        whole = zstd.ZstdCompressor.FLUSH_FRAME
        return lambda data: one.compress(data, mode=whole)
    compress: Callable[[bytes | memoryview], bytes] = zstd.ZstdCompressor().compress
    return compress


def decompress(name: str, data: bytes, size: int) -> bytes:
    """Return the `size` bytes that were compressed into `data`. No more memory than that is taken for them.

    Raises DecodeError if the data is not one whole frame of that size, MemoryError if there is no memory for the bytes,
    and ConfigError as `check_compression` does.
    """
    if name != ZSTD:
        raise DecodeError("pack", f"its compression {name[:40]!r} is not known here")
    check_compression(name, "compression")
    try:
        text = _decompress_zstd(data, size)
    except MemoryError:
        raise  # the data may be right
    except Exception as error:  # each of the two has an error class of its own
        raise DecodeError("pack", f"it can't be decompressed: {error}") from error
    if len(text) != size:
        raise DecodeError("pack", f"it has {len(text)} bytes when decompressed, and not {size} as it says")
    return text


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        import zstandard as zstd
    return zstd


def _decompress_zstd(data: bytes, size: int) -> bytes:
    zstd = _zstd()
    if sys.version_info >= (3, 14):
        options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW.bit_length() - 1}
        decompressor = zstd.ZstdDecompressor(options=options)
        text: bytes = decompressor.decompress(data, max_length=size + 1)
        if not decompressor.eof or decompressor.unused_data:
            raise ValueError("it is not one whole frame")
        return text
    # A frame may state its size, and so much memory would be taken at once.
    if zstd.frame_content_size(data) > size:
        raise ValueError("it states a larger size")
    decompressor = zstd.ZstdDecompressor(max_window_size=MAX_WINDOW)
    whole: bytes = decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    return whole
