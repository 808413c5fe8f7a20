# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud's failures mean to a person, and which of them are worth another try.

Part of ``_cloud``, the only file that calls openstacksdk.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional, TypeVar, Union

WORKERS = 8
RETRIES = 4

T = TypeVar("T")


class CloudError(Exception):
    """The cloud refused or did not answer. ``str()`` is one message for people, with a hint line where one helps.

    ``temporary``: the same request may well succeed later.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


_UNREACHABLE = (
    "ConnectFailure",
    "ConnectTimeout",
    "ConnectionError",
    "SSLFailure",
    "UnknownConnectionError",
    "RetriableConnectionFailure",
)
_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_QUOTA = re.compile(
    r"[Qq]uota exceeded for (?P<what>[a-z_, ]+): Requested (?P<needs>[0-9, ]+), but already used (?P<used>[0-9, ]+) of (?P<limit>[0-9, ]+)"
)

_QUOTA_HINT = "remove what is not needed, ask for fewer workers, or ask for more quota"


def _status(error: Exception) -> int:
    return int(getattr(error, "status_code", None) or getattr(error, "http_status", None) or 0)


def _why(error: Exception) -> tuple[str, str]:
    """The reason and a hint, in words."""
    name = type(error).__name__
    status = _status(error)
    details = getattr(error, "details", None)
    text = str(details or getattr(error, "message", None) or error).strip().splitlines()
    reason = text[0] if text else name
    if name == "ConfigException" or ("was not found" in reason and "Cloud" in reason):
        return reason, "set OS_CLOUD to a cloud of clouds.yaml (OS_CLIENT_CONFIG_FILE names the file)"
    if name in ("MissingRequiredOptions", "MissingAuthPlugin"):
        return f"no credentials: {reason}", "set OS_CLOUD to a cloud of clouds.yaml, or source your openrc file"
    if status == 401:
        return f"the cloud does not accept these credentials ({reason})", "check or renew the application credential"
    if status in (403, 409, 413) and "uota" in reason:
        return _quota(reason), _QUOTA_HINT
    if status == 403:
        return reason, "the role of this user does not allow it"
    if "CERTIFICATE_VERIFY_FAILED" in reason or name == "SSLFailure":
        return (
            f"the cloud's certificate is not trusted ({_short(reason)})",
            "name your CA with cacert in clouds.yaml, or set verify: false",
        )
    if "ProxyError" in reason or "SOCKS support" in reason:
        # their values may hold a password
        proxies = ", ".join(name for name in _PROXIES if os.environ.get(name)) or "this environment"
        return (
            f"the cloud cannot be reached through the proxy of {proxies} ({_short(reason)})",
            "fix or unset the variable, or add the cloud's host to no_proxy",
        )
    if name in _UNREACHABLE:
        what = "does not answer" if "imed out" in reason or "timeout" in reason else "cannot be reached"
        return (
            f"the cloud {what} ({_short(reason)})",
            "check auth_url in clouds.yaml, the network, and that the cloud runs",
        )
    if name in ("EndpointNotFound", "NotSupported", "ServiceDisabledException"):
        return reason, "check region_name and interface in clouds.yaml"
    if status == 429:
        return f"{reason} (HTTP 429)", "the cloud asks for fewer requests: run it again a little later"
    return (f"{reason} (HTTP {status})" if status else reason), ""


def _short(reason: str) -> str:
    """requests tells the same story three times; the address and the system's reason are enough."""
    where = re.search(r"https?://[^\s:/]+(:[0-9]+)?", reason)
    cause = re.search(r"\[Errno -?[0-9]+\] ([^'\")]+)|(certificate verify failed[^'\")(]*|[Rr]ead timed out)", reason)
    if where and cause:
        return f"{where.group(0)}: {(cause.group(1) or cause.group(2)).strip()}"
    return reason


def _quota(reason: str) -> str:
    """Nova's words, in ours: what is needed, what is used, what the limit is."""
    found = _QUOTA.search(reason)
    if found is None:
        return reason
    columns = [[part.strip() for part in found[key].split(",")] for key in ("what", "needs", "used", "limit")]
    return "; ".join(
        f"Quota exceeded for {what}: needs {needs}, {used} of {limit} used"
        for what, needs, used, limit in zip(*columns)
    )


def fault(text: str) -> tuple[str, str]:
    """Nova's fault of a server in words, and a hint line or none: it counts the quota again after it took a request."""
    return (_quota(text), f"hint: {_QUOTA_HINT}") if "uota" in text else (text or "no reason given", "")


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Turn every failure of the cloud inside into a CloudError that says what was tried."""
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    try:
        yield
    except (SDKException, ClientException, OSError) as error:
        reason, hint = _why(error)
        temporary = _status(error) == 429 or _status(error) >= 500 or type(error).__name__ in _UNREACHABLE
        text = f"Failed to {what}: {reason}" + (f"\nhint: {hint}" if hint else "")
        raise CloudError(text, temporary) from None


def check_clouds_file(path: str) -> None:
    """Refuse a clouds.yaml or secure.yaml that openstacksdk cannot use.

    :raises CloudError: the file cannot be read, is no YAML, or has no mapping where one has to be
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as stream:
            data = yaml.safe_load(stream)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise CloudError(f"Failed to read {path}: {reason}\nhint: fix the file") from None
    clouds = data.get("clouds", {}) if isinstance(data, dict) else None
    if not isinstance(clouds, dict):
        raise CloudError(f"Failed to read {path}: it has no mapping `clouds`\nhint: fix the file")
    for name, cloud in clouds.items():
        if not isinstance(cloud, dict) or not isinstance(cloud.get("auth", {}), dict):
            raise CloudError(f"Failed to read {path}: the cloud {name} has no mapping `auth`\nhint: fix the file")


def parallel(function: Callable[[Any], T], items: Iterable[Any]) -> list[Union[T, CloudError]]:
    """The results in the order of the items; a failure is a result, so that one does not hide the others."""

    def one(item: Any) -> Union[T, CloudError]:
        try:
            return function(item)
        except CloudError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, items))


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What calls give that do not need each other, made side by side: each is a way to the cloud and back.

    :raises CloudError: of those that failed, the first one's
    """
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def raise_first(results: Iterable[Any]) -> None:
    """Raise the first failure among results; it says how many more there are."""
    errors = [result for result in results if isinstance(result, CloudError)]
    if errors:
        more = f"\n({len(errors) - 1} more like it)" if len(errors) > 1 else ""
        raise CloudError(f"{errors[0]}{more}", errors[0].temporary)


def retry_policy() -> Any:
    """Which requests are sent again, for the HTTP library that openstacksdk uses.

    Retry-After is honoured, else the pause doubles from half a second. After a 429 or 503 nothing was done, so that
    everything may be repeated; after another failure of the server only what does no harm when it is done twice.
    """
    from urllib3.exceptions import MaxRetryError
    from urllib3.util import Retry

    class Policy(Retry):
        def increment(
            self,
            method: Any = None,
            url: Any = None,
            response: Any = None,
            error: Optional[Exception] = None,
            _pool: Any = None,
            _stacktrace: Any = None,
        ) -> Any:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):  # and will fail again
                raise MaxRetryError(_pool, url, error)
            return super().increment(method, url, response, error, _pool, _stacktrace)

        def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
            if status_code in (429, 503):
                return True
            return bool(self._is_method_retryable(method)) and status_code in (500, 502, 504)

    return Policy(
        total=RETRIES,
        read=1,
        allowed_methods={"GET", "HEAD", "PUT", "DELETE"},
        backoff_factor=0.5,
        backoff_jitter=0.5,
        respect_retry_after_header=True,
        raise_on_status=False,
    )
