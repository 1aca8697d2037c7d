"""Memory that a virtual machine's host has to give first."""

import mmap

_HUGE_BYTES = 2 << 20


def available_bytes(path="/proc/meminfo"):
    """What the kernel could give to a new program."""
    with open(path, encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    return 0


def touch(size_bytes):
    """Has the kernel clear so many bytes (half of what is available, if that is less), and gives
    them back; returns how many.

    A host that is told which pages of its guest are free takes them back within seconds, and the
    next first touch of each costs some microseconds: as much as a write of 1 KB. A store that is
    made at once after this gets pages that the host still holds.
    """
    size_bytes = min(size_bytes, available_bytes() // 2) // _HUGE_BYTES * _HUGE_BYTES
    if size_bytes == 0:
        return 0
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
            step = _HUGE_BYTES
        except OSError:  # A kernel without huge pages.
            step = mmap.PAGESIZE
        # An unaligned beginning leaves half of the steps in small pages, so these too.
        for offset in range(0, size_bytes, min(step, 64 << 10)):
            memory[offset] = 1
    return size_bytes
