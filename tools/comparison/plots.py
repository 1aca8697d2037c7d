"""One picture for each workload: operations a second of every engine, by value size and threads."""

import os

from comparison import engines, summary as summaries, workloads

COLORS = {engines.OURS: "#1b6ca8", engines.PEER: "#9aa5b1", engines.FLOOR: "#d9822b"}


class PlotError(Exception):
    """There is nothing to draw with, or nowhere to draw to."""


def _pyplot():
    try:
        import matplotlib
    except ImportError as error:
        raise PlotError("no plots: matplotlib is missing; tools/setup --peers installs Debian's "
                        "python3-matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def bars(summary, workload, value_bytes, threads, records):
    """(engine, operations a second, whether disturbed) of one group, the fastest first."""
    found = []
    for name, engine in engines.ENGINES.items():
        cell = summary.cell("throughput", name, workload, value_bytes, threads, records)
        if cell is not None and engine.kind != engines.DRIVER:
            found.append((name, cell.value, cell.disturbed))
    return sorted(found, key=lambda bar: -bar[1])


def draw(summary, folder):
    """Writes throughput-WORKLOAD-RECORDS.png for each workload; returns the paths."""
    pyplot = _pyplot()
    try:
        os.makedirs(folder, exist_ok=True)
        return [path for records in summary.values_of("throughput", summaries.RECORDS)
                for workload in workloads.ORDER
                for path in _draw_workload(pyplot, summary, folder, workload, records)]
    except OSError as error:
        raise PlotError(f"cannot draw into {folder}: {error.strerror}") from error


def _draw_workload(pyplot, summary, folder, workload, records):
    groups = []
    for value_bytes in summary.values_of("throughput", summaries.VALUE_BYTES):
        for threads in summary.values_of("throughput", summaries.THREADS):
            found = bars(summary, workload, value_bytes, threads, records)
            if found:
                groups.append((f"{value_bytes} B, threads: {threads}", found))
    if not groups:
        return []
    figure, axes = pyplot.subplots(1, len(groups), squeeze=False,
                                   figsize=(1 + 4 * len(groups), 3.6))
    for axis, (title, found) in zip(axes[0], groups):
        names = [name + (" *" if disturbed else "") for name, _, disturbed in found]
        rates = [rate / 1000 for _, rate, _ in found]
        colors = [COLORS[engines.ENGINES[name].kind] for name, _, _ in found]
        drawn = axis.barh(names[::-1], rates[::-1], color=colors[::-1])
        axis.bar_label(drawn, fmt="%.0f", padding=3, fontsize=8)
        axis.margins(x=0.18)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("thousand operations a second", fontsize=8)
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    what = "load" if workload == workloads.LOAD else f"workload {workload}"
    figure.suptitle(f"{what}, {records} records", fontsize=11)
    figure.tight_layout()
    path = os.path.join(folder, f"throughput-{workload}-{records}.png")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return [path]
