"""What the tests on the lab's services share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from q8s_lab import faults, settings


@dataclass(frozen=True)
class FaultyCloud:
    """The lab's cloud with one service behind a proxy that fails on demand."""

    proxy: faults.FaultProxy
    environment: Mapping[str, str]


@pytest.fixture
def faulty(lab: Mapping[str, str], tmp_path: Path) -> Iterator[Callable[[str], FaultyCloud]]:
    """``faulty("compute")``: that service's proxy, and the variables of a clouds.yaml that leads through it."""
    place = settings.load()
    with ExitStack() as stack:

        def through(service: str) -> FaultyCloud:
            proxy = stack.enter_context(faults.FaultProxy(faults.target(place, service)))
            path = tmp_path / f"clouds-{service}-{len(list(tmp_path.glob('clouds-*')))}.yaml"
            return FaultyCloud(proxy, faults.clouds_yaml(place, service, proxy, path))

        yield through
