"""What else the machine did while something ran: /proc/stat and /proc/loadavg."""

import dataclasses
import os
import time


@dataclasses.dataclass(frozen=True)
class Reading:
    """The machine's clock and counters at one moment, in seconds."""

    wall: float
    busy: float  # All CPUs together.
    stolen: float  # Wanted here, given to other machines by the hypervisor.
    load_average: float


def parse_stat(text, ticks_per_second):
    """(busy, stolen) CPU seconds from the text of /proc/stat."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "cpu":
            user, nice, system, _idle, _wait, irq, soft, steal = (int(word) for word in words[1:9])
            # Guests' time is a part of user and nice.
            busy = user + nice + system + irq + soft
            return busy / ticks_per_second, steal / ticks_per_second
    raise ValueError("/proc/stat has no line of all CPUs")


def read_now():
    """The machine as it is."""
    with open("/proc/stat", encoding="ascii") as file:
        busy, stolen = parse_stat(file.read(), os.sysconf("SC_CLK_TCK"))
    with open("/proc/loadavg", encoding="ascii") as file:
        load_average = float(file.read().split()[0])
    return Reading(time.monotonic(), busy, stolen, load_average)


def wait_until_quiet(limit_cpus, patience_s, sleep=time.sleep, read=read_now):
    """Waits until others keep at most limit_cpus busy for a second; returns whether that came
    within patience_s. Nothing of ours may run meanwhile."""
    before = read()
    deadline = before.wall + patience_s
    while before.wall < deadline:
        sleep(1)
        after = read()
        if others_cpus(before, after, 0) <= limit_cpus:
            return True
        before = after
    return False


def others_cpus(before, after, own_cpu_seconds):
    """How many CPUs others kept busy in between, on average: processes that are not ours, and
    other machines on the same host."""
    elapsed = after.wall - before.wall
    if elapsed <= 0:
        return 0.0
    taken = (after.busy - before.busy) - own_cpu_seconds + (after.stolen - before.stolen)
    return max(0.0, taken) / elapsed
