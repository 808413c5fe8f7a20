# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the cloud as messages for people, retries, and concurrent requests. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Optional, TypeVar, Union

from ansible_collections.q8s.emu.plugins.module_utils import _read

WORKERS = 8
RETRIES = 4

T = TypeVar("T")


class CloudError(Exception):
    """A failed request, or no answer. ``str()`` is a message for people, with a hint line if one helps.

    ``temporary``: the same request can succeed later. ``unanswered``: the cloud may have done, or still do, what was
    requested.
    """

    def __init__(self, message: str, temporary: bool = False, unanswered: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary
        self.unanswered = unanswered


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


def explain(error: Exception, logged_in: bool, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the reason of an error, and a hint or nothing.

    :param logged_in: whether the cloud accepted a login before: then its auth_url is right
    :param environment: variables of this process, some of which may name proxies
    """
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
        proxies = ", ".join(name for name in _PROXIES if environment.get(name)) or "this environment"
        return (
            f"the cloud cannot be reached through the proxy of {proxies} ({_short(reason)})",
            "fix or unset the variable, or add the cloud's host to no_proxy",
        )
    if name in _UNREACHABLE:
        what = "does not answer" if "imed out" in reason or "timeout" in reason else "cannot be reached"
        return (
            f"the cloud {what} ({_short(reason)})",
            "the login worked: run it again when this service answers; if it never does, check interface and region_name in clouds.yaml"
            if logged_in
            else "check auth_url in clouds.yaml, the network, and that the cloud runs",
        )
    if name in ("EndpointNotFound", "NotSupported", "ServiceDisabledException"):
        return reason, "check region_name and interface in clouds.yaml"
    if status == 429:
        return f"{reason} (HTTP 429)", "the cloud limits the rate of requests: run it again later"
    return (f"{reason} (HTTP {status})" if status else reason), ""


def _short(reason: str) -> str:
    """Return the address and the system's reason, of a message in which requests repeats both."""
    where = re.search(r"https?://[^\s:/]+(:[0-9]+)?", reason)
    cause = re.search(r"\[Errno -?[0-9]+\] ([^'\")]+)|(certificate verify failed[^'\")(]*|[Rr]ead timed out)", reason)
    if where and cause:
        return f"{where.group(0)}: {(cause.group(1) or cause.group(2)).strip()}"
    return reason


def _quota(reason: str) -> str:
    """Return Nova's message about a quota in a shorter form: what is needed, what is used, what the limit is."""
    found = _QUOTA.search(reason)
    if found is None:
        return reason
    columns = [[part.strip() for part in found[key].split(",")] for key in ("what", "needs", "used", "limit")]
    return "; ".join(
        f"Quota exceeded for {what}: needs {needs}, {used} of {limit} used"
        for what, needs, used, limit in zip(*columns)
    )


def fault(text: str) -> tuple[str, str]:
    """Return the reason of a server's fault, and a hint line or nothing.

    A fault can be an exceeded quota: Nova counts the quota again after it accepted the request.
    """
    return (_quota(text), f"hint: {_QUOTA_HINT}") if "uota" in text else (text or "no reason given", "")


@contextlib.contextmanager
def doing(what: str, *, logged_in: bool = True) -> Iterator[None]:
    """Raise every error of the cloud in this context as a CloudError that says what failed.

    :param logged_in: whether the cloud accepted a login before, as for every request of a client that ``connect`` returned
    """
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    try:
        yield
    except (SDKException, ClientException, OSError) as error:
        reason, hint = explain(error, logged_in, os.environ)
        temporary = _status(error) == 429 or _status(error) >= 500 or type(error).__name__ in _UNREACHABLE
        text = f"Failed to {what}: {reason}" + (f"\nhint: {hint}" if hint else "")
        unanswered = temporary and _status(error) not in (429, 503)  # these two were rejected before anything was done
        raise CloudError(text, temporary, unanswered) from None


def check_clouds_file(path: str) -> None:
    """Refuse a clouds.yaml or secure.yaml that openstacksdk cannot use.

    :raises CloudError: the file cannot be read, is no YAML, or has no mapping where one has to be
    """
    try:
        data = _read.yaml_data(_read.text(path), _read.Place(path))
    except (FileNotFoundError, _read.ReadError) as error:
        reason = error.reason if isinstance(error, _read.ReadError) else error.strerror
        raise CloudError(f"Failed to read {path}: {reason}\nhint: fix the file") from None
    clouds = data.get("clouds", {}) if isinstance(data, dict) else None
    if not isinstance(clouds, dict):
        raise CloudError(f"Failed to read {path}: it has no mapping `clouds`\nhint: fix the file")
    for name, cloud in clouds.items():
        if not isinstance(cloud, dict) or not isinstance(cloud.get("auth", {}), dict):
            raise CloudError(f"Failed to read {path}: the cloud {name} has no mapping `auth`\nhint: fix the file")


def map_concurrently(function: Callable[[Any], T], items: Iterable[Any]) -> list[Union[T, CloudError]]:
    """Call a function for all items concurrently. Return the results in the order of the items; a CloudError is a result."""

    def one(item: Any) -> Union[T, CloudError]:
        try:
            return function(item)
        except CloudError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, items))


def run_concurrently(*calls: Callable[[], Any]) -> list[Any]:
    """Run independent calls concurrently, because each is a round trip to the cloud. Return their results in order.

    :raises CloudError: a call failed; if several did, the first in order
    """
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def raise_first(results: Iterable[Any]) -> None:
    """Raise the first error among results, with the number of further errors."""
    errors = [result for result in results if isinstance(result, CloudError)]
    if errors:
        more = f"\n({len(errors) - 1} more like it)" if len(errors) > 1 else ""
        raise CloudError(f"{errors[0]}{more}", errors[0].temporary)


def retry_policy() -> Any:
    """Return which requests to retry, for the HTTP library that openstacksdk uses.

    The pause is that of Retry-After, or doubles from half a second. A cloud that answers 429 or 503 did nothing: retry
    every request. After another error of the cloud, retry idempotent requests only.
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
