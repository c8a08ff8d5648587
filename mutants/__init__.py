"""Mutants of what waits: break one line of it at a time, and see whether an exploration notices.

``python -m mutants`` changes `aspf/_rwlock.py` and `aspf/ranges/_range_map.py` in every way that
Cosmic Ray's operators know, and drops every statement in turn. Each mutant must be killed by the
explorations that the test suite runs, `tests/rwlock/test_explored.py` and
`tests/ranges/test_explored.py`; no other test counts. A mutant that survives must stand in
`explained.toml` with the reason why nobody can tell it from the original.
"""
