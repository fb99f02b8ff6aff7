"""A campaign against the real commands: every listener, every kind of attack, one harness.

    python -m tests.attack              all attacks, with measurements (`make attack`)
    pytest tests/attack                 the short form: served or not served, no measured times

`harness` declares, runs and measures attacks; `servers` starts the commands; every other module has
the attacks of one kind. `tests/tidy/test_listeners.py` demands an attack for every listener.
"""
