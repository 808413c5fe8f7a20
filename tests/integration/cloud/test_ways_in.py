"""openstacksdk's usual ways into a cloud: variables without a file, TLS with a CA or none, a region."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from q8s_lab import faults, settings

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab
SERVICES = {"identity": "/v3", "compute": "/v2.1", "network": "", "image": ""}


@pytest.fixture
def bare(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, without any way into its cloud."""
    for name in ("OS_CLIENT_CONFIG_FILE", "OS_CLOUD"):
        monkeypatch.delenv(name, raising=False)
    kept = {name: value for name, value in cluster.environment.items() if not name.startswith("OS_")}
    return replace(cluster, environment=kept)


def clouds(path: Path) -> Any:
    """The first cloud of a file of the lab's."""
    return next(iter(yaml.safe_load(path.read_text())["clouds"].values()))


def good(answer: Mapping[str, Any]) -> bool:
    return not answer.get("failed") and answer["problems"] == []


def test_variables_of_an_application_credential(bare: Cluster) -> None:
    auth = clouds(settings.load().clouds_yaml)["auth"]
    given = {
        "OS_AUTH_TYPE": "v3applicationcredential",
        **{f"OS_{name.upper()}": value for name, value in auth.items()},
        "OS_REGION_NAME": settings.REGION,
    }
    assert good(bare.module("cloud_preflight", environment=given))
    elsewhere = bare.module("cloud_preflight", environment={**given, "OS_REGION_NAME": "Nowhere"})
    assert elsewhere["failed"] and "hint: check region_name" in elsewhere["msg"]


def test_variables_of_an_openrc_file(bare: Cluster) -> None:
    auth = clouds(settings.load().admin_clouds_yaml)["auth"]
    given = {
        **{f"OS_{name.upper()}": value for name, value in auth.items()},
        "OS_REGION_NAME": settings.REGION,
        "OS_INTERFACE": "public",
        "OS_IDENTITY_API_VERSION": "3",
    }
    answer = bare.module("cloud_preflight", environment=given)
    assert good(answer) or all(problem.startswith("quota") for problem in answer["problems"]), answer
    assert "Failed" not in bare.inventory(**given)["stderr"]


def test_no_way_at_all(bare: Cluster) -> None:
    answer = bare.module("cloud_preflight")
    assert answer["failed"] and answer["msg"].startswith("Failed to log in to the cloud: no credentials: ")
    assert "hint: set OS_CLOUD to a cloud of clouds.yaml, or source your openrc file" in answer["msg"]


@dataclass(frozen=True)
class Region:
    """The lab's services once more, behind TLS, as a region of their own."""

    name: str
    ca: Path
    proxies: Mapping[str, faults.FaultProxy]


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def region(admin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    """A region whose services have certificates of a CA that nobody knows."""
    folder = tmp_path_factory.mktemp("tls")
    ca, key, both = folder / "ca.pem", folder / "ca.key", folder / "server.pem"
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    signs = ("-addext", "keyUsage=critical,keyCertSign")
    openssl(*new, "-subj", "/CN=Q8S test CA", *signs, "-keyout", key, "-out", ca)
    usage = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
    openssl(*new, "-subj", "/CN=cloud", *usage, "-CA", ca, "-CAkey", key, "-keyout", folder / "key", "-out", both)
    both.write_text(both.read_text() + (folder / "key").read_text())
    name = f"tls-{secrets.token_hex(2)}"
    with ExitStack() as stack:
        proxies = {
            service: stack.enter_context(faults.FaultProxy(faults.target(settings.load(), service), both))
            for service in SERVICES
        }
        admin.identity.create_region(id=name)
        made = []
        for service, path in SERVICES.items():
            (known,) = admin.identity.services(type=service)
            url = proxies[service].url + path
            made.append(
                admin.identity.create_endpoint(service_id=known.id, interface="public", region_id=name, url=url)
            )
        yield Region(name, ca, proxies)
        for endpoint in made:
            admin.identity.delete_endpoint(endpoint)
        admin.identity.delete_region(name)


def way(region: Region, folder: Path, **more: Any) -> dict[str, str]:
    """The variables of a clouds.yaml that leads into the region."""
    data = clouds(settings.load().clouds_yaml)
    data["auth"]["auth_url"] = region.proxies["identity"].url + "/v3"
    path = folder / "clouds.yaml"
    path.write_text(yaml.safe_dump({"clouds": {"tls": {**data, "region_name": region.name, **more}}}))
    path.chmod(0o600)
    for proxy in region.proxies.values():
        proxy.heal()
    return {"OS_CLIENT_CONFIG_FILE": str(path), "OS_CLOUD": "tls"}


def test_a_certificate_that_is_not_trusted(bare: Cluster, region: Region, tmp_path: Path) -> None:
    answer = bare.module("cloud_preflight", environment=way(region, tmp_path))
    first, hint = answer["msg"].splitlines()
    assert first.startswith("Failed to log in to the cloud tls: the cloud's certificate is not trusted ("), first
    assert region.proxies["identity"].url in first and "certificate verify failed" in first
    assert hint == "hint: name your CA with cacert in clouds.yaml, or set verify: false"
    assert not region.proxies["identity"].requests(), "nothing was sent to a cloud that is not trusted"


def test_a_ca_of_ones_own(bare: Cluster, region: Region, tmp_path: Path) -> None:
    through = way(region, tmp_path, cacert=str(region.ca))
    assert good(bare.module("cloud_preflight", environment=through))
    assert all(proxy.requests() for proxy in region.proxies.values()), "the region's own endpoints"
    assert "Failed" not in bare.inventory(**through)["stderr"]


def test_a_ca_of_the_variables(bare: Cluster, region: Region, tmp_path: Path) -> None:
    through = {**way(region, tmp_path), "OS_CACERT": str(region.ca)}
    # beside a cloud that was chosen by name the variables do not count
    assert "is not trusted" in bare.module("cloud_preflight", environment=through)["msg"]
    auth = {**clouds(settings.load().clouds_yaml)["auth"], "auth_url": region.proxies["identity"].url + "/v3"}
    given = {
        "OS_AUTH_TYPE": "v3applicationcredential",
        **{f"OS_{name.upper()}": value for name, value in auth.items()},
        "OS_REGION_NAME": region.name,
        "OS_CACERT": str(region.ca),
    }
    assert good(bare.module("cloud_preflight", environment=given))


def test_no_check_of_the_certificate(bare: Cluster, region: Region, tmp_path: Path) -> None:
    through = way(region, tmp_path, verify=False)
    assert good(bare.module("cloud_preflight", environment=through))
    assert all(proxy.requests() for proxy in region.proxies.values())
    planned = bare.run(["q8s-run", "plan", bare.file()], **through)
    assert planned.returncode == 0, planned.stderr
    assert "InsecureRequestWarning" not in planned.stdout + planned.stderr


def test_the_other_region_is_not_touched(bare: Cluster, region: Region, tmp_path: Path) -> None:
    through = way(region, tmp_path, cacert=str(region.ca), region_name=settings.REGION)
    assert good(bare.module("cloud_preflight", environment=through))
    assert [name for name, proxy in region.proxies.items() if proxy.requests()] == ["identity"], "by auth_url only"


def test_a_destroy_in_another_cloud_leaves_the_keys_of_this_one(bare: Cluster, region: Region, tmp_path: Path) -> None:
    state = bare.state
    (state / "kubeconfig").write_text("of this cloud's cluster")
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    done = bare.run(["q8s-run", "destroy", bare.file(), "--yes"], **way(region, tmp_path, cacert=str(region.ca)))
    assert done.returncode == 0 and "0 changes" in done.stderr, done.stderr
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
