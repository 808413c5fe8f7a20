"""Hypothesis settings: no deadline, because examples are slow on a busy machine."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("q8s", deadline=None)
hypothesis.settings.load_profile("q8s")
