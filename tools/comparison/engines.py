"""Who is compared, and how each is started."""

import dataclasses

OURS, PEER, FLOOR, DRIVER = "ours", "peer", "floor", "driver"


@dataclasses.dataclass(frozen=True)
class Engine:
    """An entry of the comparison: an engine of ycsb with some properties."""

    name: str
    kind: str
    ycsb_name: str
    path_property: str = ""  # Names the property that says where the store lies.
    properties: tuple = ()
    environment: tuple = ()
    ordered: bool = True  # Whether it can scan.
    deletes: bool = True
    compacts: bool = True
    compact_properties: tuple = ()  # Have a compaction order records by key.
    workloads: tuple = ()  # The only ones that it runs; empty: all.
    on_request: bool = False  # Left out unless it is named.
    note: str = ""  # What a reader of its figures must know.


_ORDER_BY_KEY = (("daxkv.orderbykey", "true"),)

ENGINES = {
    engine.name: engine
    for engine in (
        Engine("daxkv", OURS, "daxkv", "daxkv.path", compact_properties=_ORDER_BY_KEY),
        # C on a store that has seen what daxkv's has.
        Engine("daxkv-pin", OURS, "daxkv", "daxkv.path",
               (("daxkv.read", "pin"), ("daxkv.pinverify", "later")),
               compact_properties=_ORDER_BY_KEY,
               workloads=("load", "A", "B", "C"),
               note="reads look at the records in the pool, and leave verifying them to whoever "
                    "uses them; here nobody does. daxkv verifies each record that it copies."),
        # libpmem takes tmpfs for a disk unless it is told; daxkv's own flushes do not ask it.
        Engine("pmemkv", PEER, "pmemkv", "pmemkv.path",
               environment=(("PMEM_IS_PMEM_FORCE", "1"),), ordered=False, compacts=False),
        Engine("lmdb", PEER, "lmdb", "lmdb.path", compacts=False),
        Engine("leveldb", PEER, "leveldb", "leveldb.path"),
        Engine("rocksdb", PEER, "rocksdb", "rocksdb.path"),
        Engine("wiredtiger", PEER, "wiredtiger", "wiredtiger.path"),
        # For stores on a disk (--place): what waits for the medium at each write, and daxkv where
        # the end of the process alone counts, as with the peers' others.
        Engine("daxkv-process", OURS, "daxkv", "daxkv.path", (("daxkv.durability", "process"),),
               compact_properties=_ORDER_BY_KEY, on_request=True),
        Engine("lmdb-sync", PEER, "lmdb", "lmdb.path", (("lmdb.sync", "full"),), compacts=False,
               on_request=True),
        Engine("leveldb-sync", PEER, "leveldb", "leveldb.path", (("leveldb.sync", "true"),),
               on_request=True),
        Engine("rocksdb-sync", PEER, "rocksdb", "rocksdb.path", (("rocksdb.sync", "true"),),
               on_request=True),
        Engine("floor-serial", FLOOR, "floor-serial", "floor.path", ordered=False, deletes=False,
               compacts=False),
        Engine("floor-parallel", FLOOR, "floor-parallel", "floor.path", ordered=False,
               deletes=False, compacts=False, workloads=("load", "C16")),
        Engine("null", DRIVER, "null", deletes=False, compacts=False),
    )
}


class EngineError(Exception):
    """An engine that is not known, or that the program has not."""


def chosen(names, available):
    """The engines of `names`, or where that is empty all that need no request; of these only those
    `available`.

    `available` are the names of the engines that ycsb has.
    """
    for name in names:
        if name not in ENGINES:
            raise EngineError(f'no engine "{name}": the known ones are {", ".join(ENGINES)}')
        if ENGINES[name].ycsb_name not in available:
            raise EngineError(f'this build of ycsb has no engine "{name}": run tools/setup --peers '
                              "and build again, or leave it out")
    every = ([ENGINES[name] for name in names] if names
             else [engine for engine in ENGINES.values() if not engine.on_request])
    return [engine for engine in every if engine.ycsb_name in available]
