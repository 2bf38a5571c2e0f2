"""Memory that an update frees is kept for the next one."""

import torch

LARGEST = 2**25 - 2**16
"""Bytes just below the largest block that glibc's allocator may keep: 32 MiB."""


def keep_freed_memory() -> None:
    """Have the C library's allocator keep what is freed, in place of handing it back to the system.

    By default glibc asks the system for every large block anew, which then fills it with zeros page by page; that can
    take as long as the computation itself. Once a block of 32 MiB was freed, it keeps blocks of up to that size, and at
    most 64 MiB at the end of its heap. The block is never touched, so it costs no memory. Elsewhere this changes
    nothing.

    Source: mallopt(3), "Note: Nowadays, glibc uses a dynamic mmap threshold".
    """
    torch.empty(LARGEST, dtype=torch.uint8)
