"""One run of the program ycsb, and its report."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile

from comparison import load_watch, workloads

_LINE = re.compile(r"^\[([^\]]+)\], ([^,]+), (.*)$")
_ENGINE_LINE = re.compile(r"^  (\S+)  +(.*)$")
_LATENCY = re.compile(r"^(\d+(?:\.\d+)?)(?:st|nd|rd|th)?PercentileLatency\(us\)$")
PERCENTILES = "50,95,99,99.9"


class YcsbError(Exception):
    """A run that failed, or a report that cannot be read."""


def parse_report(text):
    """{section: {measurement: value as text}} of a report."""
    sections = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            sections.setdefault(match[1], {})[match[2]] = match[3]
    if "Throughput(ops/sec)" not in sections.get("OVERALL", {}):
        raise YcsbError("no report: the line [OVERALL], Throughput(ops/sec) is missing")
    return sections


def parse_engines(usage):
    """The engines that the usage text of ycsb lists: {name: summary}, and {name: remedy} of those
    that this build has not."""
    present, missing = {}, {}
    listing = usage.partition("\nEngines\n")[2].partition("\n\n")[0]
    for line in listing.splitlines():
        match = _ENGINE_LINE.match(line)
        if match:
            absent = match[2].startswith("not in this program: ")
            (missing if absent else present)[match[1]] = match[2]
    if not present:
        raise YcsbError("ycsb --help lists no engines")
    return present, missing


def latencies_us(sections):
    """{operation: {percentile: microseconds}} of the operations that succeeded."""
    found = {}
    for section, lines in sections.items():
        if section == "CLEANUP" or section.endswith("-FAILED"):
            continue
        percentiles = {match[1]: float(value) for name, value in lines.items()
                       if (match := _LATENCY.match(name))}
        if percentiles:
            found[section] = percentiles
    return found


def sample_of(sections, engine_name):
    """What is kept of a report: a dictionary for the results file."""
    about = sections.get(engine_name.upper(), {})
    process = sections.get("PROCESS", {})
    failures = sum(int(value) for lines in sections.values() for name, value in lines.items()
                   if name.startswith("Return=") and name != "Return=OK")
    sample = {
        "throughput": float(sections["OVERALL"]["Throughput(ops/sec)"]),
        "run_ms": float(sections["OVERALL"]["RunTime(ms)"]),
        "latency_us": latencies_us(sections),
        "failures": failures,
        "cpu_ns": float(sections["OVERALL"].get("ClientCpuPerOperation(ns)", 0)) or None,
        "open_ms": float(about["OpenTime(ms)"]) if "OpenTime(ms)" in about else None,
        "promise": about.get("Promise", ""),
        "rss_anon": int(process.get("RssAnon(bytes)", 0)),
    }
    if "CompactTime(ms)" in about:
        sample["compact_ms"] = float(about["CompactTime(ms)"])
    return sample


def blocks_bytes(path):
    """The bytes that a file or a tree holds on its file system."""
    if not os.path.lexists(path):
        return 0
    total = os.lstat(path).st_blocks * 512
    for folder, folders, files in os.walk(path):
        total += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512
                     for name in folders + files)
    return total


@dataclasses.dataclass
class Program:
    """The built program and the workload files."""

    path: str
    workloads_folder: str

    def usage(self):
        """The text of --help."""
        done = subprocess.run([self.path, "--help"], capture_output=True, text=True, check=True,
                              timeout=60)
        return done.stdout

    def command(self, phase, engine, workload, properties, threads):
        """The command line of a phase."""
        line = [self.path, phase, engine.ycsb_name, "-P",
                os.path.join(self.workloads_folder, workloads.file_name(workload)),
                "-threads", str(threads), "-p", f"hdrhistogram.percentiles={PERCENTILES}"]
        for name, value in {**dict(engine.properties), **properties}.items():
            line += ["-p", f"{name}={value}"]
        return line


class Store:
    """A store of one engine, which lies in a folder of its own under `place` until it is closed.

    Use as a context manager.
    """

    def __init__(self, program, engine, place):
        self._program = program
        self._engine = engine
        try:
            self._folder = tempfile.mkdtemp(prefix="daxkv-compare-", dir=place)
        except OSError as error:
            raise YcsbError(f"cannot make a folder in {place}: {error.strerror}") from error
        self.path = os.path.join(self._folder, "store")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, phase, workload, properties, threads, **popen_options):
        """Starts ycsb on this store and returns the process."""
        properties = dict(properties)
        if self._engine.path_property:
            properties[self._engine.path_property] = self.path
        environment = {**os.environ, **dict(self._engine.environment)}
        return subprocess.Popen(
            self._program.command(phase, self._engine, workload, properties, threads),
            env=environment, **popen_options)

    def run(self, phase, workload, properties, threads=1):
        """Runs a phase to its end; returns its sample, with what else the machine did meanwhile."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            before = load_watch.read_now()
            process = self.start(phase, workload, properties, threads, stdout=output,
                                 stderr=errors)
            usage = _wait(process)
            after = load_watch.read_now()
            output.seek(0)
            errors.seek(0)
            text, messages = output.read(), errors.read().strip()
        if process.returncode != 0:
            raise YcsbError(f"{self._engine.name}: ycsb {phase} of workload {workload} ended with "
                            f"{process.returncode}: {messages or 'no message'}")
        sample = sample_of(parse_report(text), self._engine.ycsb_name)
        own = usage.ru_utime + usage.ru_stime
        sample["cpu_s"] = round(own, 3)
        sample["others_cpus"] = round(load_watch.others_cpus(before, after, own), 3)
        sample["load_average"] = after.load_average
        return sample

    def space_bytes(self):
        """What the closed store holds on its file system."""
        return blocks_bytes(self.path)


def _wait(process):
    """Waits for the process, as Popen.wait does; returns its resource usage."""
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def warn(message):
    """Says something beside the results."""
    print(f"compare: {message}", file=sys.stderr, flush=True)
