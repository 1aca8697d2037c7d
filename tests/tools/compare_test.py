"""Tests of tools/comparison, on recorded output and on made-up samples."""

import contextlib
import io
import os
import tempfile
import unittest
from unittest import mock

from comparison import (command_line, engines, goals, load_watch, memory, plots, results, studies, summary,
                        tables, workloads, ycsb)

RECORDED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recorded")

USAGE = """ycsb load|run|delete ENGINE

Engines
  daxkv           this repository's store
  floor-serial    no store: one dependent miss and a copy
  lmdb            not in this program: its library was not installed; run tools/setup --peers

Properties [default] (accepted)
  lmdb.path  [x] (text)
"""


def recorded(name):
    with open(os.path.join(RECORDED, name), encoding="utf-8") as file:
        return file.read()


def sample(engine="daxkv", workload="C", throughput=1000.0, others=0.0, **more):
    made = {"study": "throughput", "engine": engine, "workload": workload, "value_bytes": 1000,
            "threads": 1, "records": 1_000_000, "operations": 1_000_000, "warm": False, "round": 0,
            "throughput": throughput, "others_cpus": others, "latency_us": {}, "rss_anon": 0,
            "open_ms": 1.0, "promise": "none"}
    made.update(more)
    return made


class ReportTest(unittest.TestCase):
    def test_a_recorded_report(self):
        sections = ycsb.parse_report(recorded("ycsb_run_a.txt"))
        self.assertEqual(sections["DAXKV"]["FileSystem"], "tmpfs")
        # Commas in a value belong to it.
        self.assertIn("survives a crash of the process, not", sections["DAXKV"]["Promise"])
        taken = ycsb.sample_of(sections, "daxkv")
        self.assertEqual(taken["throughput"], float(sections["OVERALL"]["Throughput(ops/sec)"]))
        self.assertEqual(taken["failures"], 0)
        self.assertEqual(taken["cpu_ns"], 2205.5)
        self.assertGreater(taken["rss_anon"], 1_000_000)
        self.assertGreater(taken["open_ms"], 0)
        self.assertGreater(taken["compact_ms"], 0)
        latencies = taken["latency_us"]
        self.assertEqual(set(latencies), {"READ", "UPDATE", "BACKGROUND-UPDATE"})
        self.assertEqual(list(latencies["READ"]), ["50", "95", "99", "99.9"])
        self.assertLessEqual(latencies["READ"]["50"], latencies["READ"]["99.9"])

    def test_failures_are_counted(self):
        taken = ycsb.sample_of(ycsb.parse_report(
            "[OVERALL], RunTime(ms), 5\n[OVERALL], Throughput(ops/sec), 200\n"
            "[READ], Return=OK, 4\n[READ], Return=NOT_FOUND, 3\n[SCAN], Return=ERROR, 2\n"), "lmdb")
        self.assertEqual(taken["failures"], 5)
        self.assertIsNone(taken["open_ms"])

    def test_no_report_is_an_error(self):
        with self.assertRaisesRegex(ycsb.YcsbError, "Throughput"):
            ycsb.parse_report("Segmentation fault\n")

    def test_engines_of_the_usage_text(self):
        present, missing = ycsb.parse_engines(USAGE)
        self.assertEqual(list(present), ["daxkv", "floor-serial"])
        self.assertEqual(list(missing), ["lmdb"])
        self.assertIn("tools/setup --peers", missing["lmdb"])
        with self.assertRaises(ycsb.YcsbError):
            ycsb.parse_engines("ycsb: command not found")


class ChoiceTest(unittest.TestCase):
    def test_engines(self):
        names = [engine.name for engine in engines.chosen([], {"daxkv", "null"})]
        self.assertEqual(names, ["daxkv", "daxkv-pin", "null"])
        with self.assertRaisesRegex(engines.EngineError, "tools/setup --peers"):
            engines.chosen(["lmdb"], {"daxkv"})
        with self.assertRaisesRegex(engines.EngineError, "the known ones are daxkv"):
            engines.chosen(["oracle"], {"daxkv"})

    def test_workloads(self):
        self.assertEqual(workloads.chosen(["E", "load"]), ["load", "E"])
        self.assertEqual(workloads.chosen([]), list(workloads.ORDER))
        with self.assertRaisesRegex(workloads.WorkloadError, 'no workload "G"'):
            workloads.chosen(["G"])
        self.assertFalse(workloads.runs_on("E", engines.ENGINES["pmemkv"]))
        self.assertFalse(workloads.runs_on("D", engines.ENGINES["daxkv-pin"]))
        self.assertTrue(workloads.runs_on("E", engines.ENGINES["lmdb"]))

    def test_command_line_of_a_run(self):
        program = ycsb.Program("ycsb", "folder")
        line = program.command("run", engines.ENGINES["daxkv-pin"], "C16",
                               workloads.properties("C16", 50, 40, 100), 2)
        self.assertEqual(line[:5], ["ycsb", "run", "daxkv", "-P", "folder/workloadc"])
        for assignment in ("daxkv.read=pin", "daxkv.pinverify=later", "recordcount=50",
                           "operationcount=40", "fieldlength=100", "multiget=16"):
            self.assertIn(assignment, line)
        # A scan is worth many operations.
        self.assertEqual(workloads.properties("E", 50, 40, 100)["operationcount"], 4)


class LoadWatchTest(unittest.TestCase):
    STAT = "cpu  100 20 30 4000 50 6 7 80 90 9\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n"

    def test_stat(self):
        self.assertEqual(load_watch.parse_stat(self.STAT, 100), (1.63, 0.8))
        with self.assertRaises(ValueError):
            load_watch.parse_stat("intr 5\n", 100)

    def test_others(self):
        before = load_watch.Reading(wall=10, busy=100, stolen=5, load_average=0)
        after = load_watch.Reading(wall=20, busy=118, stolen=6, load_average=0)
        # 18 s of CPU in 10 s, 10 of them ours, and one second stolen.
        self.assertAlmostEqual(load_watch.others_cpus(before, after, 10), 0.9)
        self.assertEqual(load_watch.others_cpus(before, after, 50), 0)
        self.assertEqual(load_watch.others_cpus(before, before, 0), 0)

    def test_waits_until_quiet(self):
        def waits(busy, patience_s):
            readings = [load_watch.Reading(float(wall), taken, 0, 0)
                        for wall, taken in enumerate(busy)]
            return load_watch.wait_until_quiet(0.1, patience_s, sleep=lambda _: None,
                                               read=lambda: readings.pop(0)), len(readings)
        self.assertEqual(waits([5, 6, 6.5, 6.55, 7], 60), (True, 1))
        self.assertEqual(waits([5, 6, 7, 8, 9], 3), (False, 1))

    def test_memory_is_touched_and_given_back(self):
        def own(name):
            with open("/proc/self/status", encoding="ascii") as file:
                return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
        size_bytes = 64 << 20
        before = own("VmRSS:")
        self.assertEqual(memory.touch(size_bytes + 1), size_bytes)
        self.assertGreater(own("VmHWM:"), before + size_bytes // 2)
        self.assertLess(own("VmRSS:"), before + size_bytes // 2)
        self.assertEqual(memory.touch(0), 0)
        self.assertGreater(memory.available_bytes(), size_bytes)

    def test_this_machine(self):
        before = load_watch.read_now()
        after = load_watch.read_now()
        self.assertGreaterEqual(after.busy, before.busy)


class ResultsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "deep", "results.jsonl")

    def test_samples_come_back(self):
        kept = results.Results(self.path)
        self.assertEqual(kept.samples, [])
        self.assertFalse(kept.has(sample()))
        kept.add(sample())
        kept.add(sample(round=1))
        again = results.Results(self.path)
        self.assertEqual(again.samples, [sample(), sample(round=1)])
        self.assertTrue(again.has(sample(throughput=5)))
        self.assertFalse(again.has(sample(round=2)))
        self.assertFalse(again.has(sample(threads=2)))

    def test_disturbed_samples_are_taken_again(self):
        kept = results.Results(self.path)
        kept.add(sample(others=2))
        kept.add(sample(round=1))
        again = results.Results(self.path, retake_above=0.1)
        self.assertFalse(again.has(sample()))
        self.assertTrue(again.has(sample(round=1)))
        again.add(sample())
        self.assertTrue(again.has(sample()))
        self.assertEqual(len(again.samples), 3)

    def test_a_line_cut_short_is_dropped(self):
        results.Results(self.path).add(sample())
        with open(self.path, "a", encoding="utf-8") as file:
            file.write('{"study": "throughp')
        kept = results.Results(self.path)
        self.assertEqual(len(kept.samples), 1)
        kept.add(sample(round=1))
        self.assertEqual(len(results.Results(self.path).samples), 2)

    def test_other_files_are_errors(self):
        os.makedirs(os.path.dirname(self.path))
        for text in ("not json\n", '["a list"]\n', '{"no": "study"}\n'):
            with open(self.path, "w", encoding="utf-8") as file:
                file.write(text)
            with self.assertRaisesRegex(results.ResultsError, "results.jsonl:1 is no sample"):
                results.Results(self.path)
        with self.assertRaisesRegex(results.ResultsError, "cannot read"):
            results.Results(os.path.dirname(self.path))
        with self.assertRaisesRegex(results.ResultsError, "cannot write"):
            results.Results("/proc/no/such").add(sample())


class SummaryTest(unittest.TestCase):
    PLACE = ("throughput", "daxkv", "C", 1000, 1, 1_000_000)

    def test_median_of_the_quiet_rounds(self):
        rounds = [(100, 0), (120, 0.05), (20, 1.5), (110, 0)]
        summed = summary.Summary([sample(throughput=rate, others=others, round=number)
                                  for number, (rate, others) in enumerate(rounds)], 0.1)
        self.assertEqual(summed.cell(*self.PLACE), summary.Cell(110, 3, False))
        self.assertEqual((summed.rounds, summed.disturbed), (4, 1))
        self.assertIsNone(summed.cell("throughput", "lmdb", "C", 1000, 1, 1_000_000))

    def test_marked_where_most_were_disturbed(self):
        # Two quiet rounds do, however many were disturbed; one of three does not.
        rounds = [(100, 0), (90, 0), (50, 1), (60, 1), (55, 1)]
        summed = summary.Summary([sample(throughput=rate, others=others, round=number)
                                  for number, (rate, others) in enumerate(rounds)], 0.1)
        self.assertEqual(summed.cell(*self.PLACE), summary.Cell(95, 2, False))
        rounds = [(100, 0), (50, 1), (60, 1)]
        summed = summary.Summary([sample(throughput=rate, others=others, round=number)
                                  for number, (rate, others) in enumerate(rounds)], 0.1)
        self.assertEqual(summed.cell(*self.PLACE), summary.Cell(60, 3, True))

    def test_warm_and_cold_are_apart(self):
        samples = [sample(throughput=5), sample(throughput=9, warm=True),
                   sample(study="space", workload="load", space_bytes=7)]
        self.assertEqual(summary.Summary(samples, 0.1).value(*self.PLACE), 5)
        warm = summary.Summary(samples, 0.1, warm=True)
        self.assertEqual(warm.value(*self.PLACE), 9)
        self.assertEqual(warm.rounds, 2)

    def test_rates_by_cpu(self):
        samples = [sample(throughput=5, cpu_ns=100.0), sample(threads=2, cpu_ns=400.0),
                   sample("lmdb", cpu_ns=None)]
        summed = summary.Summary(samples, 0.1, by_cpu=True)
        self.assertEqual(summed.value(*self.PLACE), 1e7)
        self.assertEqual(summed.value("throughput", "daxkv", "C", 1000, 2, 1_000_000), 5e6)
        self.assertIsNone(summed.value("throughput", "lmdb", "C", 1000, 1, 1_000_000))

    def test_picks(self):
        summed = summary.Summary(
            [sample(latency_us={"READ": {"99.9": 7.5}}), sample(round=1, latency_us={})], 0.1)
        self.assertEqual(summed.value(*self.PLACE, pick=summary.latency("READ", "99.9")), 7.5)
        self.assertIsNone(summed.value(*self.PLACE, pick=summary.latency("SCAN", "50")))


def verdicts(every):
    return {goal.what: (goal.figure, goal.verdict) for goal in every}


class GoalsTest(unittest.TestCase):
    def test_nothing_measured(self):
        every = goals.all_goals(summary.Summary([], 0.1), 1_000_000)
        self.assertEqual({goal.verdict for goal in every}, {goals.NOT_MEASURED})

    def test_throughput(self):
        samples = [sample("daxkv", "load", 900), sample("pmemkv", "load", 100),
                   sample("daxkv", "C", 270), sample("pmemkv", "C", 100),
                   sample("daxkv", "C", 500, threads=2), sample("daxkv-pin", "C", 405),
                   sample("floor-serial", "C", 300), sample("daxkv", "C16", 54),
                   sample("floor-parallel", "C16", 100), sample("daxkv", "E", 5),
                   sample("leveldb", "E", 2)]
        got = verdicts(goals.all_goals(summary.Summary(samples, 0.1), 1_000_000))
        self.assertEqual(got["load against pmemkv, 1 KB"], ("9.00x", goals.MET))
        self.assertEqual(got["C against pmemkv, 1 KB"], ("2.70x", goals.MISSED))
        self.assertEqual(got["C with 2 threads against 1, 1 KB"], ("1.85x", goals.MET))
        self.assertEqual(got["C with pinned reads, verified later, against copies, 1 KB"],
                         ("1.50x", goals.MET))
        self.assertEqual(got["C against floor-serial, 1 KB"], ("0.90x", goals.MET))
        self.assertEqual(got["C, 16 reads a call, against floor-parallel, 1 KB"],
                         ("0.54x", goals.MISSED))
        self.assertEqual(got["E against leveldb, 1 KB"], ("2.50x", goals.MET))
        self.assertEqual(got["A against pmemkv, 100 B"], ("-", goals.NOT_MEASURED))

    def test_memory_and_growth(self):
        grown = 10_000_000
        samples = [sample("daxkv", "C", 100), sample("daxkv", "C", 50, records=grown,
                                                     rss_anon=32_000_000),
                   sample("null", "C", 1, records=grown, rss_anon=2_000_000),
                   sample("floor-serial", "C", 300), sample("floor-serial", "C", 200,
                                                            records=grown)]
        got = verdicts(goals.all_goals(summary.Summary(samples, 0.1), 1_000_000))
        self.assertEqual(got["DRAM besides the pool, 10 M records of 1 KB"],
                         ("3.00 B/record", goals.MET))
        # Twice as slow, where the floor is 1.5 times as slow.
        self.assertEqual(got["C at 10 M against 1 M records, 1 KB"], ("1.33x", goals.MET))

    def test_tail(self):
        samples = [sample("daxkv", "C+0w", study="beside", latency_us={"READ": {"50": 2}}),
                   sample("daxkv", "C+1w", study="beside", latency_us={"READ": {"99.9": 11}}),
                   sample("daxkv", "C+1w+compact", study="beside",
                          latency_us={"READ": {"99.9": 9}})]
        got = verdicts(goals.all_goals(summary.Summary(samples, 0.1), 1_000_000))
        self.assertEqual(got["p99.9 of reads beside a writer against p50 alone, 1 KB"],
                         ("5.50x", goals.MISSED))
        self.assertEqual(
            got["p99.9 of reads beside a writer and compaction against p50 alone, 1 KB"],
            ("4.50x", goals.MET))


class TablesTest(unittest.TestCase):
    def test_numbers(self):
        self.assertEqual([tables.rate_text(rate) for rate in
                          (None, 12.3, 999.6, 4567, 45_678, 456_789, 999_600, 1_234_567)],
                         ["-", "12", "1.00k", "4.57k", "45.7k", "457k", "1.00M", "1.23M"])

    def test_table_is_aligned(self):
        text = tables.table(["a", "long"], [["first", "1"], ["b", "22"]])
        self.assertEqual(text, "| a     | long |\n"
                               "|-------|-----:|\n"
                               "| first |    1 |\n"
                               "| b     |   22 |")

    def test_what_a_put_survives(self):
        self.assertEqual(tables.survives("memory file system: a returned write survives a crash of "
                                         "the process, not of the machine"), "process end")
        self.assertEqual(tables.survives("persistent memory: a returned write survives power loss"),
                         "power loss")
        self.assertEqual(tables.survives(""), "-")

    def test_report(self):
        promise = "a returned write survives power loss"
        samples = [results.machine(),
                   sample("daxkv", "C", 300_000, promise=promise,
                          latency_us={"READ": {"50": 1, "99": 2, "99.9": 3}}),
                   sample("pmemkv", "C", 100_000, others=1, cpu_ns=9876.5),
                   sample("lmdb", "C", 200_000),
                   sample("floor-serial", "C", 600_000), sample("null", "C", 9_000_000),
                   sample("daxkv", "load", study="space", space_bytes=3 << 20,
                          promise=promise),
                   sample("daxkv", "killed", study="open", open_ms=12.5, promise=promise)]
        text = tables.report(summary.Summary(samples, 0.1))
        lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
        self.assertIn("1 of 7 samples were disturbed", text)
        self.assertIn("100k*", text)
        self.assertIn("1.50x", lines["daxkv / best peer"])
        self.assertIn("0.50x", lines["daxkv / floor"])
        self.assertIn("3.00x |     met", lines["C against pmemkv, 1 KB"])
        self.assertIn("1 / 2 / 3", text)
        self.assertIn("3.0", text.partition("## Space")[2])
        self.assertIn("9876", text.partition("CPU ns/operation")[2])
        self.assertIn("12.5", text.partition("## Time to open")[2])
        self.assertIn("survives power loss", lines["daxkv"])
        self.assertRegex(text, r"\| daxkv +\| +power loss \|")
        self.assertNotIn("daxkv-pin", text)
        pins = tables.report(summary.Summary([sample("daxkv-pin", "C", 400_000)], 0.1))
        self.assertIn("daxkv-pin: reads look at the records in the pool", pins)


class PlotsTest(unittest.TestCase):
    SUMMARY = summary.Summary([sample("daxkv", "C", 3), sample("lmdb", "C", 4),
                               sample("null", "C", 9)], 0.1)

    def test_bars(self):
        self.assertEqual(plots.bars(self.SUMMARY, "C", 1000, 1, 1_000_000),
                         [("lmdb", 4, False), ("daxkv", 3, False)])

    def test_without_matplotlib(self):
        with mock.patch.dict("sys.modules", {"matplotlib": None}):
            with self.assertRaisesRegex(plots.PlotError, "tools/setup --peers"):
                plots.draw(self.SUMMARY, "unused")

    def test_draws_where_it_can(self):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest("matplotlib is not installed")
        with tempfile.TemporaryDirectory() as folder:
            drawn = plots.draw(self.SUMMARY, folder)
            self.assertEqual([os.path.basename(path) for path in drawn],
                             ["throughput-C-1000000.png"])
            with open(drawn[0], "rb") as file:
                self.assertEqual(file.read(8), b"\x89PNG\r\n\x1a\n")


class FakeStore:
    """Notes what it is asked to do."""

    calls = []

    def __init__(self, _program, engine, _place):
        self._engine = engine

    def __enter__(self):
        FakeStore.calls.append((self._engine.name, "new"))
        return self

    def __exit__(self, *_):
        pass

    def run(self, phase, workload, properties, threads=1):
        FakeStore.calls.append((self._engine.name, phase, workload, threads,
                                properties["fieldlength"]))
        return {"throughput": 1.0, "others_cpus": 0.0, "latency_us": {}}

    def space_bytes(self):
        return 4096


class StudiesTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        FakeStore.calls = []
        patch = mock.patch.object(ycsb, "Store", FakeStore)
        patch.start()
        self.addCleanup(patch.stop)
        self.kept = results.Results(os.path.join(folder.name, "r"))

    def bench(self, names, **more):
        known = {engine.ycsb_name for engine in engines.ENGINES.values()}
        made = {"program": None, "place": "", "results": self.kept,
                "engines": engines.chosen(names, known), "workloads": workloads.chosen([]),
                "value_sizes": [100], "thread_counts": [1], "record_counts": [10],
                "operations": 0, "rounds": 1}
        made.update(more)
        return studies.Bench(**made)

    def take(self, study, bench):
        with contextlib.redirect_stdout(io.StringIO()):
            studies.STUDIES[study](bench)

    def test_scans_have_a_store_of_their_own(self):
        self.take("throughput", self.bench(["lmdb"]))
        phases = [call[2] if len(call) > 2 else "new" for call in FakeStore.calls]
        self.assertEqual(phases, ["new", "load", "A", "B", "C", "C16", "F", "D",
                                  "new", "load", "E"])
        self.assertEqual(len(self.kept.samples), 8)

    def test_warm_samples_are_others(self):
        bench = self.bench(["lmdb"], workloads=["C"])
        self.take("throughput", bench)
        bench.warm = True
        self.take("throughput", bench)
        self.assertEqual([kept["warm"] for kept in self.kept.samples], [False, True])

    def test_goes_on_where_it_was(self):
        bench = self.bench(["lmdb"], workloads=["load", "A", "D"])
        self.take("throughput", bench)
        FakeStore.calls = []
        self.take("throughput", bench)
        self.assertEqual(FakeStore.calls, [])
        bench.workloads = ["load", "A", "C", "D"]
        self.take("throughput", bench)
        self.assertEqual([call[2] for call in FakeStore.calls[1:]], ["load", "C"])
        bench.rounds = 2
        FakeStore.calls = []
        self.take("throughput", bench)
        self.assertEqual([call[2] for call in FakeStore.calls[1:]], ["load", "A", "C", "D"])

    def test_rounds_interleave_and_begin_with_another_engine(self):
        self.take("throughput", self.bench(["daxkv", "lmdb", "pmemkv"], workloads=["load"],
                                           rounds=3))
        order = [call[0] for call in FakeStore.calls if call[1] == "new"]
        self.assertEqual(order, ["daxkv", "lmdb", "pmemkv", "lmdb", "pmemkv", "daxkv",
                                 "pmemkv", "daxkv", "lmdb"])

    def test_engines_run_what_they_can(self):
        self.take("throughput", self.bench(["pmemkv", "floor-parallel", "daxkv-pin"]))
        ran = {(kept["engine"], kept["workload"]) for kept in self.kept.samples}
        self.assertNotIn(("pmemkv", "E"), ran)
        self.assertIn(("pmemkv", "D"), ran)
        self.assertEqual({workload for engine, workload in ran if engine == "floor-parallel"},
                         {"load", "C16"})
        self.assertEqual({workload for engine, workload in ran if engine == "daxkv-pin"},
                         {"load", "A", "B", "C"})

    def test_space_compacts_who_can(self):
        self.take("space", self.bench(["daxkv", "lmdb", "floor-serial"]))
        ran = [(kept["engine"], kept["workload"]) for kept in self.kept.samples]
        self.assertEqual(ran, [("daxkv", "load"), ("daxkv", "overwrite"), ("daxkv", "delete"),
                               ("daxkv", "compact"), ("lmdb", "load"), ("lmdb", "overwrite"),
                               ("lmdb", "delete")])
        self.assertEqual(self.kept.samples[0]["space_bytes"], 4096)

    def test_beside(self):
        self.take("beside", self.bench(["daxkv", "null"]))
        self.assertEqual([kept["workload"] for kept in self.kept.samples], ["C+0w", "C+1w", "C+1w+compact"])
        self.take("beside", self.bench(["lmdb"]))
        self.assertEqual([kept["workload"] for kept in self.kept.samples][3:], ["C+0w", "C+1w"])


class CommandLineTest(unittest.TestCase):
    def run_it(self, *arguments):
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                code = command_line.main(list(arguments))
            except SystemExit as ended:
                code = ended.code
        return code, output.getvalue(), errors.getvalue()

    def test_mistakes(self):
        self.assertEqual(self.run_it("walk")[0], 2)
        code, _, errors = self.run_it("throughput", "--values", "0")
        self.assertEqual(code, 2)
        self.assertIn("--values", errors)
        with tempfile.TemporaryDirectory() as folder:
            kept = os.path.join(folder, "none")
            code, _, errors = self.run_it("report", "--results", kept)
            self.assertEqual(code, 1)
            self.assertIn("take some first", errors)
            code, _, errors = self.run_it("throughput", "--results", kept, "--ycsb", "/no/such")
            self.assertEqual(code, 1)
            self.assertIn("/no/such", errors)

    def test_report(self):
        with tempfile.TemporaryDirectory() as folder:
            kept = os.path.join(folder, "r")
            results.Results(kept).add(sample())
            code, output, _ = self.run_it("report", "--results", kept, "--no-plots")
            self.assertEqual(code, 0)
            with open(os.path.join(folder, "table.md"), encoding="utf-8") as file:
                self.assertEqual(file.read() + "\n", output)


if __name__ == "__main__":
    unittest.main()
