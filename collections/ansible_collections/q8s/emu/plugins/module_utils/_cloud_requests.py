# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Concurrent requests to the cloud, and which of them to retry. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any, Optional, TypeVar, Union

from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import CloudError

WORKERS = 8
RETRIES = 4

T = TypeVar("T")


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
