"""How this process keeps memory."""

from __future__ import annotations

import ctypes

# Of mallopt(), in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MOST_BYTES_OF_MMAP_THRESHOLD = 2**25  # glibc takes no larger one


def keep_freed_memory() -> None:
    """Have freed memory used again instead of given back to the system; without glibc, do nothing.

    Images of one size come and go, and a system that clears their pages each time takes a sixth of
    what comparing two folders of BMPs takes. One arena, so that what one thread frees serves all.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MOST_BYTES_OF_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_ARENA_MAX, 1)
