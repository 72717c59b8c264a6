"""How this process treats memory; once, before the first tensor."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 << 20  # the most that glibc takes


def keep_memory() -> None:
    """Have malloc keep what one step freed for the next, and torch leave new memory as it is.

    Else glibc gives blocks of megabytes back to the kernel, whose zeroed pages then cost the next step more than its arithmetic; and under
    `deterministic` torch fills whatever it allocates with NaN, which serves only those who read what they did not write.
    """
    malloc = ctypes.CDLL(None)
    malloc.mallopt(M_TRIM_THRESHOLD, 8 * LARGEST_MMAP_THRESHOLD)
    malloc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    torch.utils.deterministic.fill_uninitialized_memory = False
