"""What is run.

A record is one field of the value's size, so that an update is one put; C16 is C with 16 reads a
call. The order is YCSB's own: D and E insert, so E has a store of its own and D comes last.
"""

LOAD, SCANS, MULTIGET = "load", "E", "C16"
MULTIGET_KEYS = 16
ORDER = ("load", "A", "B", "C", "C16", "F", "D", "E")

# A scan reads about 50 records.
SCAN_OPERATIONS_DIVISOR = 10


class WorkloadError(Exception):
    """A workload that is not known."""


def chosen(names):
    """The workloads of `names` in the order in which they are run; empty: all."""
    for name in names:
        if name not in ORDER:
            raise WorkloadError(f'no workload "{name}": the known ones are {", ".join(ORDER)}')
    return [name for name in ORDER if not names or name in names]


def runs_on(workload, engine):
    """Whether the engine can run the workload."""
    if engine.workloads and workload not in engine.workloads:
        return False
    return engine.ordered or workload != SCANS


def file_name(workload):
    """The property file, in benchmarks/workloads."""
    return "workload" + ("a" if workload == LOAD else workload[0].lower())


def properties(workload, records, operations, value_bytes):
    """The properties of a run."""
    if workload == SCANS:
        operations = max(1, operations // SCAN_OPERATIONS_DIVISOR)
    chosen_properties = {
        "recordcount": records,
        "operationcount": operations,
        "fieldcount": 1,
        "fieldlength": value_bytes,
    }
    if workload == MULTIGET:
        chosen_properties["multiget"] = MULTIGET_KEYS
    return chosen_properties
