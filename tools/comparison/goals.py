"""What daxkv has to reach: each goal's figure, and whether it is met."""

import dataclasses

from comparison import summary as summaries

MET, MISSED, NOT_MEASURED = "met", "missed", "not measured"
LARGE, SMALL = 1000, 100  # Bytes of the two value sizes.

# Times pmemkv's cmap, 1 thread: 1.5 times the best hash engine that has been measured.
AGAINST_PMEMKV = {
    LARGE: {"load": 8.5, "A": 3.3, "B": 3.2, "C": 2.8, "D": 2.7, "F": 2.4},
    SMALL: {"load": 11, "A": 3.5, "B": 2.3, "C": 2.6, "D": 3.1, "F": 2.3},
}
SCANS_AGAINST = {LARGE: ("leveldb", 2.2), SMALL: ("lmdb", 2.2)}
TWO_THREADS = 1.85
PINNED_READS = 1.5
OF_SERIAL_FLOOR = {"C": 0.85, "load": 0.45}
MULTIGET_OF_PARALLEL_FLOOR = 0.55
DRAM_BYTES_A_RECORD, GROWTH_LIMIT = 4, 1.5
GROWN, BEFORE = 10_000_000, 1_000_000
TAIL_OF_MEDIAN = 5


@dataclasses.dataclass(frozen=True)
class Goal:
    """One line of the table of goals."""

    what: str
    target: str
    figure: str
    verdict: str


def _judge(what, figure, target, at_least=True, unit="x", digits=2):
    sign = ">=" if at_least else "<="
    target_text = f"{sign} {target:g}{unit}"
    if figure is None:
        return Goal(what, target_text, "-", NOT_MEASURED)
    met = figure >= target if at_least else figure <= target
    return Goal(what, target_text, f"{figure:.{digits}f}{unit}", MET if met else MISSED)


def ratio(over, under):
    """over / under, or None where one of them is missing."""
    return over / under if over is not None and under else None


def _throughput(summary, records):
    def at(engine, workload, value_bytes, threads=1):
        return summary.value("throughput", engine, workload, value_bytes, threads, records)
    return at


def _size(value_bytes):
    return "1 KB" if value_bytes == LARGE else f"{value_bytes} B"


def throughput_goals(summary, records):
    """Those of the throughput study with that number of records."""
    at = _throughput(summary, records)
    goals = []
    for value_bytes, targets in AGAINST_PMEMKV.items():
        for workload, target in targets.items():
            goals.append(_judge(
                f"{workload} against pmemkv, {_size(value_bytes)}",
                ratio(at("daxkv", workload, value_bytes), at("pmemkv", workload, value_bytes)),
                target))
        peer, target = SCANS_AGAINST[value_bytes]
        goals.append(_judge(f"E against {peer}, {_size(value_bytes)}",
                            ratio(at("daxkv", "E", value_bytes), at(peer, "E", value_bytes)),
                            target))
    for value_bytes in (LARGE, SMALL):
        for workload in ("load", "A", "B", "C", "D", "E", "F"):
            goals.append(_judge(
                f"{workload} with 2 threads against 1, {_size(value_bytes)}",
                ratio(at("daxkv", workload, value_bytes, 2), at("daxkv", workload, value_bytes)),
                TWO_THREADS))
    copied = at("daxkv", "C", LARGE)
    goals.append(_judge("C with pinned reads, verified later, against copies, 1 KB",
                        ratio(at("daxkv-pin", "C", LARGE), copied), PINNED_READS))
    for workload, target in OF_SERIAL_FLOOR.items():
        goals.append(_judge(
            f"{workload} against floor-serial, 1 KB",
            ratio(at("daxkv", workload, LARGE), at("floor-serial", workload, LARGE)), target))
    goals.append(_judge("C, 16 reads a call, against floor-parallel, 1 KB",
                        ratio(at("daxkv", "C16", LARGE), at("floor-parallel", "C16", LARGE)),
                        MULTIGET_OF_PARALLEL_FLOOR))
    return goals


def dram_bytes_a_record(summary, engine, value_bytes, records, workload="C"):
    """Anonymous memory for each record, without what the driver itself takes; None where either
    was not measured."""
    own = summary.value("throughput", engine, workload, value_bytes, 1, records,
                        pick=summaries.rss_anon)
    driver = summary.value("throughput", "null", workload, value_bytes, 1, records,
                           pick=summaries.rss_anon)
    return None if own is None or driver is None else (own - driver) / records


def growth_factor(summary, workload, value_bytes):
    """How much longer an operation takes with 10 M records than with 1 M, once what the floor
    grows by is taken out."""
    def slower(engine):
        return ratio(_throughput(summary, BEFORE)(engine, workload, value_bytes),
                     _throughput(summary, GROWN)(engine, workload, value_bytes))
    return ratio(slower("daxkv"), slower("floor-serial"))


def other_goals(summary):
    """Those of the other studies."""
    goals = []
    for value_bytes in (LARGE, SMALL):
        goals.append(_judge(f"DRAM besides the pool, 10 M records of {_size(value_bytes)}",
                            dram_bytes_a_record(summary, "daxkv", value_bytes, GROWN),
                            DRAM_BYTES_A_RECORD, at_least=False, unit=" B/record"))
        for workload in ("load", "C"):
            goals.append(_judge(f"{workload} at 10 M against 1 M records, {_size(value_bytes)}",
                                growth_factor(summary, workload, value_bytes), GROWTH_LIMIT,
                                at_least=False))
    for records in summary.values_of("beside", summaries.RECORDS):
        for value_bytes in summary.values_of("beside", summaries.VALUE_BYTES):
            alone = summary.value("beside", "daxkv", "C+0w", value_bytes, 1, records,
                                  pick=summaries.latency("READ", "50"))
            for beside, what in (("a writer", "C+1w"), ("a writer and compaction", "C+1w+compact")):
                tail = summary.value("beside", "daxkv", what, value_bytes, 1, records,
                                     pick=summaries.latency("READ", "99.9"))
                goals.append(_judge(
                    f"p99.9 of reads beside {beside} against p50 alone, {_size(value_bytes)}",
                    ratio(tail, alone), TAIL_OF_MEDIAN, at_least=False))
    return goals


def all_goals(summary, records):
    """Every goal; `records`: the number of records that the throughput goals are judged at."""
    return throughput_goals(summary, records) + other_goals(summary)
