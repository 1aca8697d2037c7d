"""The results file: one JSON object a line, appended as samples come, so that a run which was
stopped goes on where it was.

A sample's identity is (study, engine, workload, value_bytes, threads, records, operations, warm,
compacted, round).
The first lines of every session tell the machine ("study": "machine").
"""

import json
import os
import platform

IDENTITY = ("study", "engine", "workload", "value_bytes", "threads", "records", "operations",
            "warm", "compacted", "round")


class ResultsError(Exception):
    """A results file that cannot be read or written."""


def identity(sample):
    """What tells a sample from all others."""
    return tuple(sample.get(name) for name in IDENTITY)


def read(path):
    """All samples of the file; empty when there is none. A last line that was cut short is left
    out; any other line that is no sample is an error."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error
    samples = []
    # What follows the last newline was cut short, or is nothing.
    for number, line in enumerate(lines[:-1], 1):
        try:
            sample = json.loads(line)
            if not isinstance(sample, dict) or "study" not in sample:
                raise ValueError("it names no study")
        except ValueError as error:
            raise ResultsError(f"{path}:{number} is no sample: {error}") from error
        samples.append(sample)
    return samples


class Results:
    """Samples in memory and in their file."""

    def __init__(self, path, retake_above=None):
        """`retake_above`: samples that others disturbed by more CPUs than this are to be taken
        again; None: none are."""
        self.path = path
        self.samples = read(path)
        self._known = {identity(sample) for sample in self.samples
                       if retake_above is None or sample.get("others_cpus", 0) <= retake_above}

    def has(self, wanted):
        """Whether there is a sample of that identity."""
        return identity(wanted) in self._known

    def add(self, sample):
        """Appends a sample, in the file as well."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            with open(self.path, "a+b") as file:
                file.seek(0)
                # A line that was cut short goes.
                file.truncate(file.read().rfind(b"\n") + 1)
                file.write(json.dumps(sample).encode() + b"\n")
        except OSError as error:
            raise ResultsError(f"cannot write {self.path}: {error.strerror}") from error
        self.samples.append(sample)
        self._known.add(identity(sample))


def machine():
    """The sample that tells the machine."""
    model = platform.processor()
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"study": "machine", "cpu": model, "cpus": os.cpu_count(),
            "memory_bytes": memory, "kernel": platform.release()}
