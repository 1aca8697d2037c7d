"""Which samples there are to take, in which order.

Every study is a function of a Bench that takes the samples which the results file has not yet. The
rounds are the outermost loop, and each round begins with another engine, so that what disturbs the
machine for a while meets all of them alike.
"""

import dataclasses
import signal
import subprocess
import time

from comparison import engines, load_watch, memory, workloads, ycsb

READS = "C"
# What is deleted of the records in the study of space.
DELETED_SHARE = 0.9
# How long a store is written to before it is killed.
KILL_AFTER_S = 1.0


@dataclasses.dataclass
class Bench:
    """What all studies need to know."""

    program: ycsb.Program
    place: str
    results: object  # results.Results
    engines: list
    workloads: list
    value_sizes: list
    thread_counts: list
    record_counts: list
    operations: int  # 0: as many as records.
    rounds: int
    warm: bool = False  # Whether runs read every record once before they begin.
    compact: bool = False  # Whether stores are compacted between load and runs.
    quiet_cpus: float = 0.1  # Before a store is made, others are waited for until they keep at most
    patience_s: float = 0  # so many CPUs busy, but no longer than this.
    touched_bytes: int = 0  # Memory to touch before a store is made.

    def operations_for(self, records):
        """How many operations a run on so many records does."""
        return self.operations or records

    def rotated(self, number):
        """The engines of a round."""
        first = number % len(self.engines)
        return self.engines[first:] + self.engines[:first]

    def run_properties(self, workload, records, operations, value_bytes):
        """The properties of a run."""
        chosen = workloads.properties(workload, records, operations, value_bytes)
        return {**chosen, "warmup": "true"} if self.warm else chosen

    def load_properties(self, engine):
        """What a load has besides."""
        if not self.compact or not engine.compacts:
            return {}
        return {"compactatend": "true", **dict(engine.compact_properties)}

    def store(self, engine):
        """A new store, once the machine is quiet or patience is at its end, and memory there."""
        if self.patience_s > 0 and not load_watch.wait_until_quiet(self.quiet_cpus,
                                                                   self.patience_s):
            ycsb.warn(f"not quiet within {self.patience_s:g} s; goes on")
        memory.touch(self.touched_bytes)
        return ycsb.Store(self.program, engine, self.place)

    def keep(self, name, sample):
        """Adds a sample and says so."""
        self.results.add({**name, **sample, "time": int(time.time())})
        what = " ".join(str(name[key]) for key in ("study", "engine", "workload"))
        if sample.get("failures"):
            ycsb.warn(f"{what}: {sample['failures']} operations failed or found nothing")
        disturbed = f", others busy: {sample['others_cpus']:.2f} CPUs"
        print(f"{what}, {name['value_bytes']} B, {name['threads']} threads, {name['records']} "
              f"records, round {name['round'] + 1}: {sample['throughput']:.0f}/s{disturbed}",
              flush=True)


def _name(study, engine, workload, value_bytes, threads, records, operations, number, warm=False,
          compacted=False):
    name = {"study": study, "engine": engine.name, "workload": workload,
            "value_bytes": value_bytes, "threads": threads, "records": records,
            "operations": operations, "warm": warm, "round": number}
    return {**name, "compacted": True} if compacted else name


def _cells(bench):
    """(round, records, value size, threads, engine), in the order of the samples."""
    for number in range(bench.rounds):
        for records in bench.record_counts:
            for value_bytes in bench.value_sizes:
                for threads in bench.thread_counts:
                    for engine in bench.rotated(number):
                        yield number, records, value_bytes, threads, engine


def throughput(bench):
    """Operations a second, latencies and memory of every workload."""
    for number, records, value_bytes, threads, engine in _cells(bench):
        if engine.kind == engines.DRIVER and threads != bench.thread_counts[0]:
            continue
        names = {workload: _name("throughput", engine, workload, value_bytes, threads, records,
                                 bench.operations_for(records), number, bench.warm,
                                 bench.compact)
                 for workload in bench.workloads if workloads.runs_on(workload, engine)}
        wanted = [workload for workload in names if not bench.results.has(names[workload])]
        # Inserts of D would meet those of E in one store.
        for chain in ([workload for workload in wanted if workload != workloads.SCANS],
                      [workload for workload in wanted if workload == workloads.SCANS]):
            if chain:
                _run_chain(bench, engine, chain, names, threads)


def _run_chain(bench, engine, chain, names, threads):
    """Loads one store and runs the workloads of the chain on it."""
    with bench.store(engine) as store:
        for workload in ["load"] + [workload for workload in chain if workload != "load"]:
            name = names.get(workload) or next(iter(names.values()))
            phase = "load" if workload == "load" else "run"
            properties = bench.run_properties(workload, name["records"], name["operations"],
                                              name["value_bytes"])
            if phase == "load":
                properties = {**properties, **bench.load_properties(engine)}
            sample = store.run(phase, workload, properties, threads)
            if workload in chain:
                bench.keep(name, sample)


def growth(bench):
    """The cost of an operation as the store grows: load and C, one thread, for each number of
    records; with the memory besides the store."""
    grown = dataclasses.replace(bench, workloads=["load", READS], thread_counts=[1])
    grown.engines = [engine for engine in bench.engines
                     if engine.name not in ("daxkv-pin", "floor-parallel")]
    throughput(grown)


# What goes on beside the reads, and the properties that have it do so.
COMPACTION = "C+1w+compact"
BACKGROUNDS = {
    "C+0w": {},
    "C+1w": {"backgroundwriters": 1},
    COMPACTION: {"backgroundwriters": 1, "backgroundcompaction": "true"},
}


def beside(bench):
    """Latencies of reads alone, beside a thread that updates at full speed, and beside that and one
    that compacts again and again."""
    for number, records, value_bytes, _, engine in _cells(
            dataclasses.replace(bench, thread_counts=[1])):
        if engine.kind in (engines.FLOOR, engines.DRIVER):
            continue
        operations = bench.operations_for(records)
        properties = bench.run_properties(READS, records, operations, value_bytes)
        names = {what: _name("beside", engine, what, value_bytes, 1, records, operations, number,
                             bench.warm)
                 for what in BACKGROUNDS if engine.compacts or what != COMPACTION}
        if all(bench.results.has(name) for name in names.values()):
            continue
        with bench.store(engine) as store:
            store.run("load", "load", properties)
            for what, name in names.items():
                sample = store.run("run", READS, {**properties, **BACKGROUNDS[what]})
                if not bench.results.has(name):
                    bench.keep(name, sample)


def open_time(bench):
    """How long a store takes to open, after a clean close and after SIGKILL under load."""
    for number, records, value_bytes, _, engine in _cells(
            dataclasses.replace(bench, thread_counts=[1])):
        if engine.kind in (engines.FLOOR, engines.DRIVER) or engine.workloads:
            continue
        properties = workloads.properties(READS, records, 1, value_bytes)
        names = {how: _name("open", engine, how, value_bytes, 1, records, 1, number)
                 for how in ("closed", "killed")}
        if all(bench.results.has(name) for name in names.values()):
            continue
        with bench.store(engine) as store:
            store.run("load", "load", properties)
            for how, name in names.items():
                if how == "killed":
                    _kill_under_load(store, properties)
                sample = store.run("run", READS, properties)
                if not bench.results.has(name):
                    bench.keep(name, sample)


def _kill_under_load(store, properties):
    process = store.start("run", "A", {**properties, "operationcount": 0,
                                       "maxexecutiontime": 3600}, 1,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(KILL_AFTER_S)
        if process.poll() is not None:
            raise ycsb.YcsbError("the store that was to be killed had ended by itself with "
                                 f"{process.returncode}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def space(bench):
    """What a closed store holds on its file system after a load, after every record was overwritten
    once on average, after 90 % were deleted, and after it was compacted."""
    for number, records, value_bytes, _, engine in _cells(
            dataclasses.replace(bench, thread_counts=[1])):
        if engine.kind in (engines.FLOOR, engines.DRIVER) or engine.workloads:
            continue
        first = workloads.properties("A", records, records, value_bytes)
        overwrite = {**first, "readproportion": 0, "updateproportion": 1,
                     "requestdistribution": "uniform"}
        deleted = {**first, "insertcount": max(1, int(records * DELETED_SHARE))}
        compacted = {**first, "readproportion": 1, "updateproportion": 0, "operationcount": 1,
                     "insertstart": deleted["insertcount"], "compactatend": "true"}
        steps = [("load", "load", first), ("overwrite", "run", overwrite),
                 ("delete", "delete", deleted)]
        if engine.compacts and deleted["insertcount"] < records:
            steps.append(("compact", "run", compacted))
        names = {step: _name("space", engine, step, value_bytes, 1, records, records, number)
                 for step, _, _ in steps}
        if all(bench.results.has(name) for name in names.values()):
            continue
        with bench.store(engine) as store:
            for step, phase, properties in steps:
                sample = store.run(phase, "A", properties)
                sample["space_bytes"] = store.space_bytes()
                if not bench.results.has(names[step]):
                    bench.keep(names[step], sample)


STUDIES = {
    "throughput": throughput,
    "growth": growth,
    "beside": beside,
    "open": open_time,
    "space": space,
}
