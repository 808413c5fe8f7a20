"""CPU and machine models of each host operating system's QEMU, and detection of an image's operating system."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _spec, _spec_qemu

EXAMPLES = Path(__file__).parents[3] / "examples"

# What `qemu-system-x86_64 -cpu help` of QEMU 10.0 (Debian 13) lists beyond 7.2 (Debian 12).
ONLY_10 = """ClearwaterForest ClearwaterForest-v1 EPYC-Genoa EPYC-Genoa-v1 EPYC-Milan-v2 EPYC-Rome-v3 EPYC-Rome-v4
EPYC-v4 GraniteRapids GraniteRapids-v1 GraniteRapids-v2 Icelake-Server-v7 SapphireRapids SapphireRapids-v1
SapphireRapids-v2 SapphireRapids-v3 SierraForest SierraForest-v1 SierraForest-v2 YongFeng YongFeng-v1
YongFeng-v2""".split()


def test_debian_13_has_what_debian_12_has_and_more() -> None:
    def models(system: str) -> set[str]:
        return {model for model in _spec_qemu.CPU_MODELS["x86_64"] if _spec_qemu.has_cpu_model(system, "x86_64", model)}

    assert models("debian-13") - models("debian-12") == set(ONLY_10)
    assert models("debian-12") <= models("debian-13")


@pytest.mark.parametrize(
    ("architecture", "model", "systems"),
    [
        ("x86_64", "EPYC-Rome", "debian-12 debian-13 ubuntu-22.04 ubuntu-24.04 ubuntu-26.04"),
        ("x86_64", "EPYC-Genoa", "debian-13 ubuntu-24.04 ubuntu-26.04"),
        ("x86_64", "SapphireRapids", "debian-13 ubuntu-24.04 ubuntu-26.04"),
        ("x86_64", "SierraForest", "debian-13 ubuntu-26.04"),
        ("x86_64", "Icelake-Server-v6", "debian-12 debian-13 ubuntu-24.04 ubuntu-26.04"),
        ("x86_64", "Icelake-Client", "ubuntu-22.04"),
        ("x86_64", "Icelake-Client-v2", "ubuntu-22.04"),
        ("aarch64", "cortex-a57", "debian-12 debian-13 ubuntu-22.04 ubuntu-24.04 ubuntu-26.04"),
        ("aarch64", "neoverse-n1", "debian-12 debian-13 ubuntu-24.04 ubuntu-26.04"),
        ("aarch64", "neoverse-v1", "debian-13 ubuntu-24.04 ubuntu-26.04"),
        ("aarch64", "cortex-a78ae", "ubuntu-26.04"),
    ],
)
def test_who_has_a_cpu_model(architecture: str, model: str, systems: str) -> None:
    have = [name for name in _spec_qemu.HOST_SYSTEMS if _spec_qemu.has_cpu_model(name, architecture, model)]
    assert have == systems.split()


def test_nothing_is_claimed_of_a_model_in_no_table() -> None:
    assert _spec_qemu.has_cpu_model("debian-12", "x86_64", "EPYC-Zen9") is None
    assert _spec_qemu.model_problem("debian-12", "cpu_model", "EPYC-Zen9", "x86_64") == ""
    assert _spec_qemu.lacking_systems("cpu_model", "EPYC-Zen9", "x86_64") == ""


@pytest.mark.parametrize(
    ("system", "model", "has"),
    [
        ("debian-12", "q35", True),
        ("debian-12", "pc-q35-7.2", True),
        ("debian-12", "pc-q35-8.0", False),
        ("debian-12", "pc-q35-4.0.1", True),
        ("debian-13", "pc-q35-10.0", True),
        ("debian-13", "pc-i440fx-2.3", False),
        ("debian-12", "pc-i440fx-2.3", True),
        ("ubuntu-22.04", "virt-7.0", False),
        ("ubuntu-26.04", "virt-4.2", False),
        ("ubuntu-26.04", "pc-q35-2.4", None),
        ("ubuntu-26.04", "pc-q35-11.0", False),
    ],
)
def test_machine_versions(system: str, model: str, has: bool | None) -> None:
    assert _spec_qemu.has_machine_model(system, model) is has


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("debian-13", "debian-13"),
        ("Debian 12 (bookworm) 20261001", "debian-12"),
        ("debian-12-genericcloud-amd64", "debian-12"),
        ("debian12", "debian-12"),
        ("Debian GNU/Linux 13", "debian-13"),
        ("trixie", "debian-13"),
        ("Ubuntu 22.04.4 Server x86_64 (ssd)", "ubuntu-22.04"),
        ("ubuntu-noble-24.04-amd64-server", "ubuntu-24.04"),
        ("noble-server-cloudimg-amd64", "ubuntu-24.04"),
        ("Ubuntu Server 26.04 LTS", "ubuntu-26.04"),
        ("ubuntu-20.04", ""),
        ("debian-11-bullseye", ""),
        ("debian-120", ""),
        ("our-image", ""),
        ("bookworm and trixie", ""),
        ("", ""),
    ],
)
def test_the_system_that_a_name_names(name: str, system: str) -> None:
    assert _spec_qemu.find_host_system(name) == system


@pytest.mark.parametrize(
    ("distribution", "version", "name", "system"),
    [
        ("debian", "12", "anything", "debian-12"),
        ("Debian", "12 (bookworm)", "anything", "debian-12"),
        ("ubuntu", "22.04", "debian-13", "ubuntu-22.04"),
        ("ubuntu", "24.04 LTS", "", "ubuntu-24.04"),
        ("ubuntu", "jammy", "", "ubuntu-22.04"),
        ("", "", "debian-13", "debian-13"),
        ("ubuntu", "", "noble", "ubuntu-24.04"),
        ("centos", "12", "x", ""),
    ],
)
def test_the_system_of_an_image(distribution: str, version: str, name: str, system: str) -> None:
    assert _spec_qemu.host_system_of_image(distribution, version, name) == system


@pytest.mark.parametrize("name", ["demo", "paper50", "prototype"])
@pytest.mark.parametrize("system", _spec_qemu.HOST_SYSTEMS)
def test_the_examples_run_on_every_system(name: str, system: str) -> None:
    text = re.sub(
        r"(?m)^default_image_name:.*$", f"default_image_name: {system}", (EXAMPLES / f"{name}.yaml").read_text()
    )
    messages = [warning.message for warning in _spec.load_text(text, name).warnings]
    assert not any("QEMU" in message for message in messages), messages
