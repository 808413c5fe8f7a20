"""The servers that ``--limit`` selects, by names of servers, nodes and groups, existing or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.filter.limited_servers import FilterModule
from ansible_collections.q8s.emu.plugins.module_utils import _limit, _spec

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
INITIAL, X86, ARM = "demo-control-plane", "demo-x86-small-1", "demo-arm-mid-1"


@pytest.mark.parametrize(
    ("limit", "servers"),
    [
        ([], [INITIAL, X86, ARM]),
        (None, [INITIAL, X86, ARM]),
        (ARM, [INITIAL, ARM]),
        ("arm-mid-1", [INITIAL, ARM]),  # its guest
        (["arm-mid-1", X86], [INITIAL, X86, ARM]),
        (" arm-mid-1 , x86-small-1 ", [INITIAL, X86, ARM]),
        ("arm-*", [INITIAL, ARM]),
        ("worker_hosts", [INITIAL, X86, ARM]),
        ("emulated_workers,!arch_aarch64", [INITIAL, X86]),
        ("!arm-mid-1", [INITIAL, X86]),
        ("type_arm_mid", [INITIAL, ARM]),
        ("control_plane", [INITIAL]),
    ],
)
def test_what_is_selected(limit: str | list[str] | None, servers: list[str]) -> None:
    assert _limit.limited_servers(CLUSTER, limit) == servers
    assert FilterModule().filters()["limited_servers"](CLUSTER.to_mapping(), limit) == servers


@pytest.mark.parametrize("limit", ["nosuch", "arm-mid-1,nosuch", "big-*", "!nosuch", "", " , "])
def test_what_is_not_there_is_refused(limit: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"no server, node or group .*known are .*arm-mid-1"):
        FilterModule().filters()["limited_servers"](CLUSTER.to_mapping(), limit)
