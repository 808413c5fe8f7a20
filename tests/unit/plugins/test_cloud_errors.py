"""Errors of a cloud: which requests are retried, and how reasons are reported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_errors, _cloud_requests
from urllib3.exceptions import MaxRetryError, ProtocolError, SSLError


def test_a_certificate_that_is_not_trusted_is_not_asked_for_again() -> None:
    policy = _cloud_requests.retry_policy()
    lost = policy.increment("GET", "/", error=ProtocolError("Connection aborted."))
    assert lost.total == policy.total - 1
    with pytest.raises(MaxRetryError) as ended:
        policy.increment("GET", "/", error=SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"))
    assert isinstance(ended.value.reason, SSLError), "so that the message can say why"


def test_a_servers_fault_is_told_as_a_refusal_is() -> None:
    nova = "Quota exceeded for instances: Requested 1, but already used 2 of 2 instances"
    said, hint = _cloud_errors.fault(nova)
    assert said == "Quota exceeded for instances: needs 1, 2 of 2 used" and "ask for more quota" in hint
    assert _cloud_errors.fault("No valid host was found.") == ("No valid host was found.", "")
    assert _cloud_errors.fault("") == ("no reason given", "")


@pytest.mark.parametrize(
    ("variable", "value"), [("https_proxy", "http://me:hunter2@127.0.0.1:9"), ("ALL_PROXY", "socks5://127.0.0.1:9")]
)
def test_a_proxy_in_the_way_is_named_without_its_password(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keystoneauth1 import session

    for name in _cloud_errors._PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(_cloud_errors.CloudError) as raised, _cloud_errors.doing("log in", logged_in=False):
        session.Session().get("https://192.0.2.1/v3", authenticated=False)
    text = str(raised.value)
    assert f"the cloud cannot be reached through the proxy of {variable} (" in text and "no_proxy" in text
    assert "hunter2" not in text


class _Session:
    """A session whose plugin has no password."""

    def get_token(self) -> None:
        raise Exception("password is a required attribute")


class _Connection:
    session = _Session()


def test_a_missing_password_is_named() -> None:
    with pytest.raises(_cloud_errors.CloudError, match=r"no credentials: password is .*\nhint: add it"):
        _cloud._authenticate(_Connection())


@pytest.mark.parametrize(
    ("cloud", "file", "reason"),
    [
        ("lab", "clouds.yaml", "/clouds.yaml does not have it; it has office, work"),
        ("lab", "nowhere.yaml", "the file of OS_CLIENT_CONFIG_FILE, {folder}/nowhere.yaml, does not exist"),
        ("work", "clouds.yaml", "auth_url is cloud.example.org:5000; it must begin with http:// or https://"),
    ],
)
def test_a_wrong_choice_of_the_cloud_is_told_without_asking_one(
    cloud: str, file: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = {name: {"auth": {"auth_url": "cloud.example.org:5000", "username": "ada"}} for name in ("work", "office")}
    (tmp_path / "clouds.yaml").write_text(json.dumps({"clouds": clouds}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / file))
    monkeypatch.setenv("OS_CLOUD", cloud)
    with pytest.raises(_cloud_errors.CloudError, match=re.escape(reason.format(folder=tmp_path))):
        _cloud.login()
