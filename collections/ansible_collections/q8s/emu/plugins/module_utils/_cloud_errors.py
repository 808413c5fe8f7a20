# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the cloud as messages for people. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping


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
    if name in _UNREACHABLE or (name == "DiscoveryFailure" and "onnection" in reason):
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
