"""The report: Markdown tables, aligned so that they read well as plain text too."""

from comparison import engines, goals, studies, summary as summaries, workloads

DISTURBED_MARK = "*"


def table(header, rows):
    """An aligned Markdown table; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header] + rows) for i in range(len(header))]

    def line(cells):
        aligned = [cells[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
        return "| " + " | ".join(aligned) + " |"

    rule = "|".join(["", "-" * (widths[0] + 2)] + ["-" * (width + 1) + ":"
                                                   for width in widths[1:]] + [""])
    return "\n".join([line(header), rule] + [line(row) for row in rows])


def rate_text(rate):
    """Operations a second in three digits: 1.23M, 456k, 78.9k."""
    if rate is None:
        return "-"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size * 0.9995:
            scaled = rate / size
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}{unit}"
    return f"{rate:.0f}"


def size_text(size_bytes):
    """Bytes in MiB."""
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.1f}"


def ratio_text(over, under):
    """Their quotient."""
    quotient = goals.ratio(over, under)
    return "-" if quotient is None else f"{quotient:.2f}x"


def _cell_text(cell, text=rate_text):
    if cell is None:
        return "-"
    return text(cell.value) + (DISTURBED_MARK if cell.disturbed else "")


def _names(summary, study):
    """The engines of a study in the order of the comparison."""
    there = summary.values_of(study, summaries.ENGINE)
    return [name for name in engines.ENGINES if name in there]


def survives(promise):
    """A promise in a word or two: what a returned put survives."""
    for words, short in (("may be lost in a crash of the process", "nothing"),
                         ("only if that is true", "power, if it is pmem"),
                         ("survives power loss", "power loss"),
                         ("survives a crash of the process", "process end"),
                         ("none", "nothing")):
        if words in promise:
            return short
    return "see below" if promise else "-"


def throughput_table(summary, value_bytes, threads, records):
    """Operations a second of every engine, and what daxkv's come to; None without samples."""
    def at(engine, workload):
        return summary.cell("throughput", engine, workload, value_bytes, threads, records)

    names = [name for name in _names(summary, "throughput")
             if any(at(name, workload) for workload in workloads.ORDER)]
    if not names:
        return None
    measured = [workload for workload in workloads.ORDER
                if any(at(name, workload) for name in names)]
    promises = summary.promises()
    rows = [[name, survives(promises.get(name, ""))] +
            [_cell_text(at(name, workload)) for workload in measured] for name in names]

    def value(engine, workload):
        cell = at(engine, workload)
        return None if cell is None else cell.value

    def best_peer(workload):
        return max((value(name, workload) for name in names
                    if engines.ENGINES[name].kind == engines.PEER and value(name, workload)),
                   default=None)

    def floor(workload):
        return "floor-parallel" if workload == workloads.MULTIGET else "floor-serial"

    rows.append(["daxkv / best peer", ""] +
                [ratio_text(value("daxkv", workload), best_peer(workload))
                 for workload in measured])
    rows.append(["daxkv / floor", ""] +
                [ratio_text(value("daxkv", workload), value(floor(workload), workload))
                 for workload in measured])
    return table(["operations/s", "put survives"] + measured, rows)


def cpu_table(summary, value_bytes, threads, records):
    """What the client threads spend on a CPU for an operation. The time slices of other processes
    are not in it, so it is steadier than operations a second; but neither are waits, nor what an
    engine's own threads do."""
    figures = {(name, workload): summary.value("throughput", name, workload, value_bytes, threads,
                                               records, pick=summaries.cpu_ns)
               for name in _names(summary, "throughput") for workload in workloads.ORDER}
    names = list(dict.fromkeys(name for (name, _), figure in figures.items() if figure))
    measured = [workload for workload in workloads.ORDER
                if any(figures[name, workload] for name in names)]
    rows = [[name] + ["-" if figures[name, workload] is None else
                      f"{figures[name, workload]:.0f}" for workload in measured]
            for name in names]
    return table(["CPU ns/operation"] + measured, rows) if rows else None


def latency_table(summary, value_bytes, threads, records):
    """Microseconds of the operations that make a workload, at several percentiles."""
    wanted = [("C", "READ"), ("A", "READ"), ("A", "UPDATE"), ("load", "INSERT"), ("E", "SCAN")]
    percentiles = ("50", "99", "99.9")
    rows = []
    for name in _names(summary, "throughput"):
        row = [name]
        for workload, operation in wanted:
            figures = [summary.value("throughput", name, workload, value_bytes, threads, records,
                                     pick=summaries.latency(operation, percentile))
                       for percentile in percentiles]
            row.append("-" if figures[0] is None else
                       " / ".join("-" if figure is None else f"{figure:.3g}"
                                  for figure in figures))
        if any(cell != "-" for cell in row[1:]):
            rows.append(row)
    header = ["us: p50 / p99 / p99.9"] + [f"{workload} {operation.lower()}"
                                          for workload, operation in wanted]
    return table(header, rows) if rows else None


def memory_table(summary, records):
    """Memory besides the store after C, one thread."""
    sizes = summary.values_of("throughput", summaries.VALUE_BYTES)
    rows = []
    for name in _names(summary, "throughput"):
        if engines.ENGINES[name].kind != engines.DRIVER:
            figures = [goals.dram_bytes_a_record(summary, name, size, records) for size in sizes]
            if any(figure is not None for figure in figures):
                rows.append([name] + ["-" if figure is None else f"{figure:.1f}"
                                      for figure in figures])
    header = ["DRAM besides the store, bytes/record"] + [f"{size} B" for size in sizes]
    return table(header, rows) if rows else None


def growth_table(summary, value_bytes):
    """Nanoseconds of an operation by the number of records, one thread."""
    counts = summary.values_of("throughput", summaries.RECORDS)
    if len(counts) < 2:
        return None
    rows = []
    for name in _names(summary, "throughput"):
        for workload in ("load", "C"):
            cells = [summary.cell("throughput", name, workload, value_bytes, 1, count)
                     for count in counts]
            if sum(cell is not None for cell in cells) >= 2:
                rows.append([f"{name} {workload}"] +
                            [_cell_text(cell, lambda rate: f"{1e9 / rate:.0f}") for cell in cells])
    header = [f"ns/operation, {value_bytes} B"] + [f"{count} records" for count in counts]
    return table(header, rows) if rows else None


def _study_table(summary, study, steps, pick, text, title):
    """A table of one study: engines down, steps across, for each size and number of records."""
    parts = []
    for records in summary.values_of(study, summaries.RECORDS):
        for value_bytes in summary.values_of(study, summaries.VALUE_BYTES):
            rows = []
            for name in _names(summary, study):
                cells = [summary.cell(study, name, step, value_bytes, 1, records, pick=pick)
                         for step in steps]
                if any(cells):
                    rows.append([name] + [_cell_text(cell, text) for cell in cells])
            if rows:
                parts.append(table([f"{title}, {records} x {value_bytes} B"] + list(steps), rows))
    return parts


def beside_tables(summary):
    """Latencies of reads alone, beside a writer, and beside a writer and compaction."""
    parts = []
    for percentile in ("50", "99", "99.9"):
        parts += _study_table(summary, "beside", tuple(studies.BACKGROUNDS),
                              summaries.latency("READ", percentile),
                              lambda figure: f"{figure:.3g}",
                              f"us of a read, p{percentile}, alone, beside a writer, and with compaction")
    return parts


def goals_table(summary, records):
    """Every goal that something was measured for, the others counted."""
    every = goals.all_goals(summary, records)
    measured = [goal for goal in every if goal.verdict != goals.NOT_MEASURED]
    if not measured:
        return None
    text = table(["goal of daxkv", "target", "figure", "verdict"],
                 [[goal.what, goal.target, goal.figure, goal.verdict] for goal in measured])
    met = sum(goal.verdict == goals.MET for goal in measured)
    return (f"{text}\n\n{met} met, {len(measured) - met} missed, "
            f"{len(every) - len(measured)} not measured.")


def report(summary):
    """The whole report."""
    parts = ["# daxkv and its peers"]
    for machine in summary.machines[-1:]:
        parts.append(f"{machine['cpu']}, {machine['cpus']} CPUs, "
                     f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}. "
                     f"Medians of rounds; {summary.disturbed} of {summary.rounds} samples were "
                     f"disturbed by other load ({DISTURBED_MARK}: by disturbed samples alone).")
    if summary.by_cpu:
        parts.append("Rates are by the CPU time of the client threads, waits not counted.")
    if summary.warm:
        parts.append("Every record was read once before each run.")
    if summary.compacted:
        parts.append("Stores were compacted between load and runs, in the order of their keys, "
                     "where the engine has a call for that: "
                     + ", ".join(sorted(engine.name for engine in engines.ENGINES.values()
                                        if engine.compacts)) + ".")
    parts += [f"{name}: {engines.ENGINES[name].note}" for name in _names(summary, "throughput")
              if engines.ENGINES[name].note]
    counts = summary.values_of("throughput", summaries.RECORDS)
    for records in counts:
        for value_bytes in summary.values_of("throughput", summaries.VALUE_BYTES):
            for threads in summary.values_of("throughput", summaries.THREADS):
                place = (summary, value_bytes, threads, records)
                text = throughput_table(*place)
                if text:
                    title = f"## {records} records of {value_bytes} B, threads: {threads}"
                    parts += [title, text, cpu_table(*place) or "", latency_table(*place) or ""]
        parts.append(memory_table(summary, records) or "")
    for value_bytes in summary.values_of("throughput", summaries.VALUE_BYTES):
        growth = growth_table(summary, value_bytes)
        parts += ["## As the store grows", growth] if growth else []
    for title, tables_of in (
            ("## Reads beside a writer", beside_tables(summary)),
            ("## Time to open", _study_table(summary, "open", ("closed", "killed"),
                                             summaries.open_ms, lambda ms: f"{ms:.3g}", "ms")),
            ("## Space on the file system",
             _study_table(summary, "space", ("load", "overwrite", "delete", "compact"),
                          summaries.space_bytes, size_text, "MiB"))):
        parts += [title] + tables_of if tables_of else []
    # The goals speak of 1 M records; without them, of the most that were measured.
    judged = goals.BEFORE if goals.BEFORE in counts or not counts else counts[-1]
    goal_text = goals_table(summary, judged)
    parts += [f"## Goals, at {judged} records", goal_text] if goal_text else []
    promises = summary.promises()
    parts += ["## What a returned put survives",
              table(["engine", "promise"],
                    [[name, promises[name]] for name in engines.ENGINES if promises.get(name)])]
    return "\n\n".join(part for part in parts if part) + "\n"
