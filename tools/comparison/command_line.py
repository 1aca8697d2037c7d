"""The options of tools/compare."""

import argparse
import os
import subprocess
import sys

from comparison import engines, plots, results, studies, summary, tables, workloads, ycsb

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXIT_FAILED, EXIT_USAGE = 1, 2
# What growth compares where it is not told: the peers' caches would not fit beside 10 M records.
GROWTH_ENGINES = ["daxkv", "floor-serial", "null"]
GROWTH_RECORDS = [100_000, 1_000_000, 10_000_000]
DEFAULT_RECORDS = [1_000_000]

DESCRIPTION = """\
Runs the YCSB workloads on daxkv, on the other stores that this build of ycsb has (tools/setup
--peers), and on two floors of what the memory alone costs; writes one table of medians, ratios and
goals, and a plot for each workload.

Studies
  throughput  operations a second and latencies of the workloads, memory besides the store
  growth      load and C with 100 k, 1 M and 10 M records (of daxkv and the floor, unless told)
  beside      latencies of reads alone, beside a thread that writes at full speed, and beside
              that and one that compacts
  open        time to open after a clean close, and after SIGKILL
  space       blocks on the file system after load, overwrite, delete and compaction
  report      takes no samples: only writes the tables and plots of those there are
"""
EPILOGUE = """\
Samples are appended to the results file as they come: run the same command again to go on where it
was stopped, with more --rounds to add to it. A sample is marked as disturbed when other processes
(or the host) kept more than --disturbed CPUs busy meanwhile.

Example
  tools/compare throughput --records 200000 --values 1000 --threads 1
"""


def _list_of(convert):
    def parse(text):
        return [convert(part) for part in text.split(",") if part]
    parse.__name__ = "list"
    return parse


def _positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _parser():
    parser = argparse.ArgumentParser(
        prog="tools/compare", description=DESCRIPTION, epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*studies.STUDIES, "report"])
    parser.add_argument("--engines", type=_list_of(str), default=[], metavar="NAME,...",
                        help="of " + ", ".join(engines.ENGINES) + " (default: all there are, but those "
                        "with -sync and -process, which are for a --place on a disk)")
    parser.add_argument("--workloads", type=_list_of(str), default=[], metavar="NAME,...",
                        help="of " + ", ".join(workloads.ORDER) + " (default: all)")
    parser.add_argument("--values", type=_list_of(_positive), default=[1000, 100],
                        metavar="BYTES,...", help="sizes of values (default: 1000,100)")
    parser.add_argument("--threads", type=_list_of(_positive), default=[1, 2], metavar="N,...",
                        help="numbers of client threads (default: 1,2)")
    parser.add_argument("--records", type=_list_of(_positive), default=[], metavar="N,...",
                        help="records of a store (default: 1000000)")
    parser.add_argument("--operations", type=_positive, default=0, metavar="N",
                        help="operations of a run (default: as many as records; of E a tenth)")
    parser.add_argument("--rounds", type=_positive, default=3, metavar="N",
                        help="how often all is measured (default: 3)")
    parser.add_argument("--disturbed", type=float, default=0.1, metavar="CPUS",
                        help="other load that a quiet round may have (default: 0.1)")
    parser.add_argument("--patience", type=float, default=0, metavar="SECONDS",
                        help="wait so long for a quiet machine before each store (default: 0)")
    parser.add_argument("--touch", type=float, default=2, metavar="GIB",
                        help="memory to touch and give back before each store, so that loads do "
                        "not measure how fast a virtual machine's host gives pages (default: 2)")
    parser.add_argument("--retake", action="store_true",
                        help="take disturbed samples again, beside those there are")
    parser.add_argument("--warm", action="store_true",
                        help="throughput, growth, beside: read every record once before each run, "
                        "so that page faults of a fresh mapping are not measured")
    parser.add_argument("--compact", action="store_true",
                        help="throughput, growth: compact each store between load and runs, where "
                        "the engine has a call for it (daxkv, which then orders records by key; "
                        "leveldb, rocksdb, wiredtiger); the others run on what the load left")
    parser.add_argument("--by", choices=["time", "cpu"], default="time",
                        help="report rates by the clock, or by the CPU time of the client threads, "
                        "which other load disturbs less but which leaves waits out")
    parser.add_argument("--results", default="compare/results.jsonl", metavar="FILE",
                        help="the samples (default: compare/results.jsonl)")
    parser.add_argument("--out", default="", metavar="DIR",
                        help="tables and plots go there (default: where the samples are)")
    parser.add_argument("--place", default="/dev/shm", metavar="DIR",
                        help="where the stores lie meanwhile (default: /dev/shm)")
    parser.add_argument("--ycsb", default="", metavar="PROGRAM",
                        help="the program (default: built by bazel --config=opt)")
    parser.add_argument("--no-plots", action="store_true", help="tables only")
    return parser


def _program(path):
    if not path:
        done = subprocess.run(["bazel", "build", "--config=opt", "--ui_event_filters=-info",
                               "--noshow_progress", "--show_result=0", "//benchmarks/ycsb"],
                              cwd=ROOT, check=False)
        if done.returncode != 0:
            raise ycsb.YcsbError("ycsb could not be built: see bazel's messages above")
        path = os.path.join(ROOT, "bazel-bin/benchmarks/ycsb/ycsb")
    return ycsb.Program(path, os.path.join(ROOT, "benchmarks/workloads"))


def _take_samples(options, kept):
    program = _program(options.ycsb)
    present, missing = ycsb.parse_engines(program.usage())
    for name in missing if not options.engines else []:
        ycsb.warn(f"without {name}: {missing[name]}")
    names, records = options.engines, options.records or DEFAULT_RECORDS
    if options.study == "growth":
        names = names or GROWTH_ENGINES
        records = options.records or GROWTH_RECORDS
    bench = studies.Bench(
        program=program, place=options.place, results=kept,
        engines=engines.chosen(names, present), workloads=workloads.chosen(options.workloads),
        value_sizes=options.values, thread_counts=options.threads, record_counts=records,
        operations=options.operations, rounds=options.rounds, warm=options.warm,
        compact=options.compact,
        quiet_cpus=options.disturbed, patience_s=options.patience,
        touched_bytes=int(max(0.0, options.touch) * 2**30))
    kept.add(results.machine())
    studies.STUDIES[options.study](bench)


def _write_report(options, kept):
    summed = summary.Summary(kept.samples, options.disturbed, warm=options.warm,
                             compacted=options.compact, by_cpu=options.by == "cpu")
    if summed.rounds == 0:
        raise results.ResultsError(f"no samples in {options.results}: take some first")
    folder = options.out or os.path.dirname(os.path.abspath(options.results))
    text = tables.report(summed)
    print(text)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "table.md"), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise results.ResultsError(f"cannot write into {folder}: {error.strerror}") from error
    drawn = []
    if not options.no_plots:
        try:
            drawn = plots.draw(summed, folder)
        except plots.PlotError as error:
            ycsb.warn(str(error))
    print(f"compare: {os.path.join(folder, 'table.md')} and {len(drawn)} plots", file=sys.stderr)


def main(arguments):
    """Runs a command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        kept = results.Results(options.results, options.disturbed if options.retake else None)
        if options.study != "report":
            _take_samples(options, kept)
        _write_report(options, kept)
    except (engines.EngineError, workloads.WorkloadError) as error:
        ycsb.warn(str(error))
        return EXIT_USAGE
    except (ycsb.YcsbError, results.ResultsError, OSError, subprocess.SubprocessError) as error:
        ycsb.warn(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        ycsb.warn("interrupted; the same command goes on from here")
        return 130
    return 0
