# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud modules share: arguments, and failures as messages instead of tracebacks."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import env_fallback
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cloud,
    _cloud_objects,
    _cloud_tags,
    _login,
    _plan,
    _plan_servers,
    _spec,
)

STATE = {"type": "str", "choices": ["present", "absent"], "default": "present"}


def run(arguments: Mapping[str, Any], do: Callable[[AnsibleModule, Any, Any], dict[str, Any]], **options: Any) -> None:
    """Run a module: ``do(module, cluster, cloud)`` gives its result.

    :param arguments: the module's own arguments, beside ``cluster`` and ``cloud``
    """
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "dict", "required": True},
            "cloud": {"type": "str", "fallback": (env_fallback, ["OS_CLOUD"])},
            **arguments,
        },
        supports_check_mode=True,
        **options,
    )
    try:
        cluster = _spec.load_mapping(module.params["cluster"], "cluster")
        result = do(module, cluster, _cloud.connect(module.params["cloud"]))
    except _spec.SpecError as error:
        module.fail_json(msg=f"Failed to read the cluster:\n{error}")
    except _cloud.CloudError as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)


def plan_result(module: AnsibleModule, plan: Any) -> dict[str, Any]:
    """Return the module's result for a plan. Issue the plan's notes as warnings."""
    for note in plan.notes:
        module.warn(f"{note[0].upper()}{note[1:]}")
    result: dict[str, Any] = plan.to_mapping()
    return result


def tag_run_owner(module: AnsibleModule, cloud: Any, group_id: str, tags: Any, etcd_server: str = "") -> None:
    """Tag the security group with this run's owner, and warn if another run started within the last hour.

    :param etcd_server: id of the server that has the cluster's CA and etcd, to record if no server is recorded
    """
    owner = f"{getpass.getuser()}@{socket.gethostname()}"
    tagged, other = _cloud_tags.run_owner_tags(tags, owner, int(time.time()))
    if other:
        module.warn(f"{other}. Two runs at once undo each other's work: stop one of them")
    if not _cloud_tags.etcd_server(tagged):
        tagged = _cloud_tags.record_etcd_server(tagged, etcd_server)
    if group_id and not module.check_mode:
        cloud.security_groups.set_tags(group_id, tagged)


def servers_plan(module: AnsibleModule, cluster: Any, cloud: Any, existing: Any) -> Any:
    """Return the plan of the servers. If some are created, their network says whether they need ports of Q8S's."""

    options = _plan_servers.Options(
        remove_surplus=module.params["remove_surplus"],
        replace_control_plane=module.params["replace_control_plane"],
        replace_nodes=module.params.get("replace_nodes") or (),
        survivors=module.params.get("survivors") or (),
        patience=float(module.params["timeout"]),
        limit=module.params.get("limit"),
        keep_surplus=module.params.get("keep_surplus") or (),
    )
    plan = _plan_servers.plan_servers(cluster, existing, options)
    if not plan.of(_plan.SERVER, "create", "replace"):
        return plan
    networks = cloud.clusters.find_networks(cluster)
    if len(networks) == 1 and networks[0].own_ports:
        return _plan_servers.plan_servers(cluster, existing, replace(options, own_ports=True))
    return plan


def missing_key(cluster: Any, servers: Any) -> list[str]:
    """Return whether the key for an initial instance that Q8S did not create is missing on this machine."""
    path = cluster.initial_instance_private_key
    foreign, _problems = _cloud_objects.foreign_initial(cluster, servers)
    if foreign is None or not path or os.path.isfile(os.path.expanduser(path)):
        return []
    return [
        f"initial_instance_private_key: there is no file {path}, and Q8S did not create the initial instance {foreign.name}"
    ]


def missing_floating_ip(cluster: Any, existing: Any) -> list[str]:
    """Return whether an initial instance that Q8S did not create lacks the floating IP by which it is checked.

    A floating IP of Q8S's is assigned only after the check. The check needs none if this machine has a route to the
    server's own address.
    """
    foreign, _problems = _cloud_objects.foreign_initial(cluster, existing.servers)
    if foreign is None or cluster.access.type != "floating_ip" or foreign.floating or foreign.deleting:
        return []
    if foreign.address(cluster.remote_ip_prefix) is None or _login.has_route(cluster.remote_ip_prefix):
        return []
    free = next((item.address for item in existing.floating if not item.fixed), "")
    create = "" if free else f"; openstack floating ip create {cluster.access.floating_network} creates one"
    return [
        f"the initial instance {foreign.name}, which Q8S did not create, has no floating IP, by which it is checked "
        "before anything is created; give it one "
        f"(openstack server add floating ip {foreign.name} {free or 'ADDRESS'}{create})"
    ]
