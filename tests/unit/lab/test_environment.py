"""The virtual environment of the services, created with the real uv from a lock file without packages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from q8s_lab import environment


def test_of_two_labs_that_start_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "requirements.lock"
    empty.write_text("# nothing\n")
    monkeypatch.setattr(environment, "LOCK", empty)
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    with ThreadPoolExecutor(2) as pool:
        (folder, made), (same, again) = pool.map(lambda _: environment.ensure(), range(2))
    assert folder == same and sorted([made, again]) == [False, True]
    assert (folder / "bin/python").exists()
    assert environment.ensure() == (folder, False)
