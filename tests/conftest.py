"""What holds for every test: Hypothesis tries the same inputs each time, however slow the machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("aspf", derandomize=True, deadline=None)
settings.load_profile("aspf")
