"""Examples of a busy machine take as long as they take: a slow one is no failure."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("q8s", deadline=None)
hypothesis.settings.load_profile("q8s")
