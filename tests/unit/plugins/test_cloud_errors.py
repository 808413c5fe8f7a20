"""Which requests to a cloud are sent again."""

from __future__ import annotations

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud_errors
from urllib3.exceptions import MaxRetryError, ProtocolError, SSLError


def test_a_certificate_that_is_not_trusted_is_not_asked_for_again() -> None:
    policy = _cloud_errors.retry_policy()
    lost = policy.increment("GET", "/", error=ProtocolError("Connection aborted."))
    assert lost.total == policy.total - 1
    with pytest.raises(MaxRetryError) as ended:
        policy.increment("GET", "/", error=SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"))
    assert isinstance(ended.value.reason, SSLError), "so that the message can say why"
