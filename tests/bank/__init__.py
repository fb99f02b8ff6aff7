"""A bank on a real TiDB, and a learner of its regions that must answer as TiDB does.

    sessions ─► TiDB ─► store ─► its tap ─► `follow`: regions and their logs ─► enginepb ─► learner
                 │                                       │ read index                          │
                 └── SELECT at ts ─► compare ◄───────────┴─────────── learner read at ts ──────┘

Sessions move money between accounts of several tables (`workload`), DDL and splits go on beside
them. `python -m tests.bank` (`make bank`) runs it for a time.
"""
