"""Runs //benchmarks/ycsb on daxkv and its peers, and tells how they compare (tools/compare).

    engines        who is compared, and how each is started
    workloads      what is run
    ycsb           one run of the program, and its report
    load_watch     what else the machine did meanwhile
    memory         pages that a virtual machine's host has to give first
    results        the file of samples, one JSON object a line
    studies        which samples there are to take, in which order
    summary        medians over rounds
    goals          what daxkv has to reach
    tables, plots  what is shown
    command_line   the options

Python's standard library only, but for matplotlib, which plots alone need.
"""
