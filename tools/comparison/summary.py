"""Medians over rounds.

A round counts as disturbed when others kept more than a limit of CPUs busy meanwhile. Where two or
half of the rounds were quiet, only these are taken; else all are, and the cell is marked.
"""

import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Cell:
    """What the rounds of one cell say."""

    value: float
    rounds: int  # Those that the value is the median of.
    disturbed: bool  # Whether these are disturbed ones.


class Summary:
    """The samples of one file, asked for by their place in the tables."""

    def __init__(self, samples, disturbed_cpus, warm=False, compacted=False, by_cpu=False):
        """`warm`, `compacted`: which of the samples that know the difference. `by_cpu`: operations a second are
        those of a second on a CPU, for each thread."""
        self._limit = disturbed_cpus
        self.warm, self.compacted, self.by_cpu = warm, compacted, by_cpu
        self._by_cell = {}
        self.machines = [sample for sample in samples if sample["study"] == "machine"]
        self.disturbed = self.rounds = 0
        for sample in samples:
            if sample["study"] == "machine":
                continue
            if sample["study"] in ("throughput", "beside") and sample["warm"] != warm:
                continue
            if sample["study"] == "throughput" and sample.get("compacted", False) != compacted:
                continue
            self.rounds += 1
            self.disturbed += self._is_disturbed(sample)
            key = (sample["study"], sample["engine"], sample["workload"], sample["value_bytes"],
                   sample["threads"], sample["records"])
            self._by_cell.setdefault(key, []).append(sample)

    def _is_disturbed(self, sample):
        return sample["others_cpus"] > self._limit

    def cell(self, study, engine, workload, value_bytes, threads, records, pick=None):
        """The median of what `pick` takes out of the samples (None: it has none), or None where
        nothing was measured. Without `pick`: operations a second."""
        pick = pick or (rate_by_cpu if self.by_cpu else rate)
        samples = self._by_cell.get((study, engine, workload, value_bytes, threads, records), [])
        samples = [sample for sample in samples if pick(sample) is not None]
        if not samples:
            return None
        quiet = [sample for sample in samples if not self._is_disturbed(sample)]
        # A median of one lucky round of many says less than one of all.
        use_quiet = len(quiet) >= 2 or 2 * len(quiet) >= len(samples)
        taken = quiet if use_quiet else samples
        return Cell(statistics.median(pick(sample) for sample in taken), len(taken), not use_quiet)

    def value(self, *args, **kwargs):
        """The value of a cell, or None."""
        cell = self.cell(*args, **kwargs)
        return None if cell is None else cell.value

    def values_of(self, study, index):
        """The different values at one place of a cell's key, sorted. Places: 1 engine, 2 workload,
        3 value size, 4 threads, 5 records."""
        return sorted({key[index] for key in self._by_cell if key[0] == study})

    def promises(self):
        """{engine: what it last said that a returned put survives}."""
        return {key[1]: samples[-1].get("promise", "") for key, samples in self._by_cell.items()}


ENGINE, WORKLOAD, VALUE_BYTES, THREADS, RECORDS = range(1, 6)


def rate(sample):
    """A pick: operations a second."""
    return sample["throughput"]


def rate_by_cpu(sample):
    """A pick: operations a second, if every client thread had a CPU all the time, and no waits."""
    return sample["threads"] * 1e9 / sample["cpu_ns"] if sample.get("cpu_ns") else None


def latency(operation, percentile):
    """A pick: microseconds."""
    return lambda sample: sample["latency_us"].get(operation, {}).get(percentile)


def open_ms(sample):
    """A pick: milliseconds to open."""
    return sample.get("open_ms")


def cpu_ns(sample):
    """A pick: nanoseconds on a CPU of the client threads, for each operation."""
    return sample.get("cpu_ns")


def rss_anon(sample):
    """A pick: bytes of anonymous memory."""
    return sample.get("rss_anon")


def space_bytes(sample):
    """A pick: bytes on the file system."""
    return sample.get("space_bytes")
