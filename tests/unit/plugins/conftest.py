"""Settings of all tests: Hypothesis has no deadline."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("q8s", deadline=None)  # examples are slow on a busy machine
hypothesis.settings.load_profile("q8s")
