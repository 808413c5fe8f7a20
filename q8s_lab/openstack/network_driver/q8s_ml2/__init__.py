"""An ML2 mechanism driver that binds every port at once: the link is created when the machine starts.

It also notifies ``q8s_lab.firewall`` of changes, and sets the status of floating IPs, as an L3 agent would.
"""

import time
from typing import Any

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins import constants as plugin_types
from neutron_lib.plugins import directory
from neutron_lib.plugins.ml2 import api

from q8s_lab import settings

CHANGES = settings.load().network_changes
_FOLLOWED = (resources.PORT, resources.SECURITY_GROUP, resources.SECURITY_GROUP_RULE, resources.FLOATING_IP)
_EVENTS = (events.AFTER_CREATE, events.AFTER_UPDATE, events.AFTER_DELETE)


class AlwaysBind(api.MechanismDriver):
    """A mechanism driver that binds every port without an agent."""

    connectivity = portbindings.CONNECTIVITY_L2

    def initialize(self) -> None:
        """Subscribe to the events that ``q8s_lab.firewall`` follows."""
        for resource in _FOLLOWED:
            for event in _EVENTS:
                registry.subscribe(_changed, resource, event)
        for event in _EVENTS[:2]:
            registry.subscribe(_floating, resources.FLOATING_IP, event)

    def bind_port(self, context: Any) -> None:
        """Bind a port to its first segment."""
        for segment in context.segments_to_bind:
            context.set_binding(
                segment[api.ID],
                portbindings.VIF_TYPE_OTHER,
                {portbindings.CAP_PORT_FILTER: True},
                status=constants.PORT_STATUS_ACTIVE,
            )
            return


def _changed(resource: Any, event: Any, trigger: Any, payload: Any) -> None:
    """Notify ``q8s_lab.firewall``."""
    CHANGES.write_text(str(time.monotonic_ns()))


def _floating(resource: Any, event: Any, trigger: Any, payload: Any) -> None:
    """Set the status of a floating IP, as an L3 agent would."""
    used = payload.latest_state["port_id"]
    status = constants.FLOATINGIP_STATUS_ACTIVE if used else constants.FLOATINGIP_STATUS_DOWN
    plugin = directory.get_plugin(plugin_types.L3)
    plugin.update_floatingip_status(payload.context.elevated(), payload.resource_id, status)
