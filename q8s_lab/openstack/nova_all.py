"""Nova's API, conductor, scheduler and compute service in one process, connected by oslo.messaging's fake transport."""

import os
from pathlib import Path

from nova import monkey_patch

monkey_patch.patch(backend="threading")

import nova.conf  # noqa: E402
import nova.virt  # noqa: E402

# Nova imports compute drivers from the package nova.virt only.
nova.virt.__path__.append(str(Path(__file__).parent / "compute_driver"))

import os_vif  # noqa: E402
from nova import context, objects, service  # noqa: E402
from nova.compute import rpcapi as compute_rpcapi  # noqa: E402
from nova.conductor import rpcapi as conductor_rpcapi  # noqa: E402
from nova.objects import host_mapping  # noqa: E402
from nova.scheduler import rpcapi as scheduler_rpcapi  # noqa: E402
from nova.wsgi.osapi_compute import application  # noqa: E402, F401

objects.register_all()
os_vif.initialize()
_services = []
for _binary, _topic, _alternative in (
    ("nova-conductor", conductor_rpcapi.RPC_TOPIC, None),
    ("nova-scheduler", scheduler_rpcapi.RPC_TOPIC, None),
    ("nova-compute", compute_rpcapi.RPC_TOPIC, compute_rpcapi.RPC_TOPIC_ALT),
):
    _service = service.Service.create(binary=_binary, topic=_topic, topic_alt=_alternative)
    _service.start()
    _services.append(_service)

# As `nova-manage cell_v2 discover_hosts` does.
host_mapping.discover_hosts(context.get_admin_context())
os.environ.pop("Q8S_APPLICATION", None)
