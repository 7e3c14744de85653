"""What every worker process of a run sets once, before it computes."""

import ctypes
import os
from contextlib import suppress
from functools import lru_cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_TRIM_BYTES = 512 << 20
_MMAP_BYTES = 32 << 20  # the largest that glibc takes

#: The environment of worker processes, for what has to be set before they start.
WORKER_ENV = {
    # Arrow's own allocator keeps some memory for every thread that ever read a file.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # OpenMP's threads sleep while they wait. Left alone they spin for milliseconds: two threads beside one other busy
    # process scored 0.3 pictures a second, with this 8. Sleeping has its price: two threads that spin trained on 9.1
    # pictures a second, two that sleep on 5.4. A mean did not help (GOMP_SPINCOUNT=10000: 8.3 alone, but 3.3 instead of
    # 4.9 beside a busy process). So training has a worker a core.
    "OMP_WAIT_POLICY": "PASSIVE",
    # One arena for all threads. Ray runs a training function in a thread that is not the process's first; glibc gives
    # it an arena that is too small to keep anything: an EfficientNet-Lite0 took 21 ms a picture there, with this 16.
    "MALLOC_ARENA_MAX": "1",
    # As `tune` sets them.
    "MALLOC_TRIM_THRESHOLD_": str(_TRIM_BYTES),
    "MALLOC_MMAP_THRESHOLD_": str(_MMAP_BYTES),
}


def cores() -> int:
    """Those that this process may use; on macOS, which binds no process to cores, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fill_cores(processes: int) -> bool:
    """Whether so many processes that compute fill this machine's cores: then each may `keep_to_core`. To be asked only
    for processes that this command has started itself: others would count on the same cores."""
    return hasattr(os, "sched_setaffinity") and processes == cores()


def keep_to_core(number: int) -> None:
    """Keep this process, every thread of it, to one of the cores that it may use; a number without a core does nothing.

    Left alone, two processes that compute sometimes share one core while another rests: Ray's helpers, each of which
    wakes a hundred times a second, or threads of their own push one of them off its core.
    """
    mine = sorted(os.sched_getaffinity(0))[number : number + 1]
    if not mine:
        return
    for thread in os.listdir("/proc/self/task"):  # those to come are born with it
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), mine)


@lru_cache(maxsize=1)
def tune(threads: int = 1) -> None:
    """One core per process is what Ray counts; and memory that one image frees is kept for the next one.

    glibc returns every block of some megabytes to the kernel, and each tensor pays for fresh pages again: a third of
    the time of a small encoder on a CPU.
    """
    import torch  # noqa: PLC0415 - 0.6 GB that the driver, which imports the pipeline too, does without

    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; elsewhere the allocator does as it likes
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
