#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create or delete the servers of a cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: servers
short_description: Create or delete the servers of a cluster
version_added: 0.1.0
description:
  - Creates all servers concurrently, all new hosts of a type in one call if their numbers start at 1, and polls all of them together until
    each is C(ACTIVE) with an address.
  - Each server creates its own SSH host key at its first boot (hosts of workers create a second one, for the guest), and signs it with a CA that
    this module creates for the call. The CA's public part is in the server's metadata, the private one in its user-data only.
  - A server that is off is started, and so is an initial instance that others created, which is neither repaired nor replaced. One in C(ERROR),
    or in C(BUILD) for longer than O(timeout), is replaced; a new one that goes to C(ERROR) while it is waited for is replaced once.
  - The server that has the cluster's CA and etcd is the exception. If it is in C(ERROR) or gone while other servers of the cluster are there, the module fails
    and says what would be lost, unless O(replace_control_plane=true). Its id is in a tag of the cluster's security group.
  - Nor is any other control plane replaced if etcd would be left without a majority of its members.
  - Where C(private_network_id) is a subnet, or its network has several, each server gets a port that Q8S creates in the right one.
  - If the subnet has no DHCP, servers get a config drive with their address.
  - With C(server_group) C(soft-anti-affinity), new servers join a server group that Q8S creates, whose members Nova spreads as far as it can.
  - With a floating IP in C(access), the initial control plane gets one, by which it and through it the others are reached.
  - A server that is no longer in the cluster file is kept and reported, unless O(remove_surplus=true).
  - Servers that were created with another flavor, image, network or server group than the file names now, or that lack one of its security groups, are
    kept and reported. So is a floating IP of another external network.
  - O(state=absent) deletes every server that carries the cluster's name in its metadata, every port and floating IP that carries it in its
    description, and the server group of its name, and waits until the servers are gone. It deletes nothing else.
extends_documentation_fragment: [q8s.emu.cloud]
options:
  public_key:
    description: The public key that may log in, in OpenSSH's form. Needed for O(state=present).
    type: str
  state:
    description:
      - Whether the servers exist. With V(started), only an initial instance that Q8S did not create is started, if it is off, so that it can be checked
        before any other server is created.
    type: str
    choices: [present, absent, started]
    default: present
  nodes:
    description: With O(state=absent), only the servers of these Kubernetes nodes. Drain and delete the nodes before.
    type: list
    elements: str
  remove_surplus:
    description: Delete servers that are no longer in the cluster file. Drain and delete their nodes before.
    type: bool
    default: false
  keep_surplus:
    description: With O(remove_surplus=true), names of servers that stay nevertheless, because their nodes could not be drained.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  replace_control_plane:
    description:
      - Give up the data of an initial control plane that is in C(ERROR) or gone. Every server of the cluster is replaced, because none can join a new CA.
      - Nothing is replaced while that server runs.
    type: bool
    default: false
  survivors:
    description:
      - Names of additional control planes that were seen to have the cluster's CA and a working etcd. If the server that is recorded to have them was
        deleted, the first of these is recorded in its place, and a new initial control plane is created, which has to join it.
    type: list
    elements: str
    default: []
  limit:
    description:
      - Names of the servers that the run is for. Of the others, those that are missing are created, and those that are off are started, but none is
        replaced.
    type: list
    elements: str
    version_added: 0.2.0
  partial:
    description:
      - Succeed although some servers could not be created, started or removed, or are paused, and return them in RV(failed_servers), as long as
        the initial control plane runs.
    type: bool
    default: false
  timeout:
    description:
      - Seconds without progress. Servers are waited for as long as one of them changes its state, or is gone, within this time.
    type: int
    default: 600
attributes:
  diff_mode:
    description: Shows the servers before and after.
    support: full
seealso:
  - module: q8s.emu.keypair
  - module: q8s.emu.security_group
"""

EXAMPLES = r"""
- name: Create the servers
  q8s.emu.servers:
    cluster: "{{ q8s_cluster }}"
    public_key: "{{ lookup('ansible.builtin.file', q8s_private_key ~ '.pub') }}"

- name: Remove the servers
  q8s.emu.servers:
    cluster: "{{ q8s_cluster }}"
    state: absent

- name: Remove the server of one node
  q8s.emu.servers:
    cluster: "{{ q8s_cluster }}"
    nodes: [arm-mid-1]
    state: absent
"""

RETURN = r"""
extends_documentation_fragment: [q8s.emu.cloud]
servers:
  description: The cluster's servers after the run.
  returned: success, not in check mode, O(state=present)
  type: list
  elements: dict
  sample: [{"name": "demo-control-plane", "id": "5b0d...", "address": "10.254.1.17"}]
initial_created:
  description: Whether the server of the initial control plane is a new one.
  returned: success
  type: bool
  sample: false
failed_servers:
  description: By name, why a server could not be created, started or removed; empty without O(partial=true).
  returned: success, not in check mode, O(state=present)
  type: dict
  sample: {"demo-arm-mid-2": "server demo-arm-mid-2 is in ERROR: No valid host was found."}
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cloud,
    _cloud_errors,
    _cloud_objects,
    _cloud_tags,
    _hostkeys,
    _identity,
    _module,
    _plan,
    _plan_servers,
    _server_requests,
    _text,
)


def apply(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Bring the servers to the wanted state."""
    if module.params["state"] == "present" and module.params["nodes"] is not None:
        raise _cloud.CloudError("Failed to plan the servers: nodes goes with state=absent only")
    existing = cloud.clusters.find_existing(cluster)
    if module.params["state"] == "started":
        return _start_foreign(module, cluster, cloud, existing)
    if module.params["state"] == "present":
        plan = _module.servers_plan(module, cluster, cloud, existing)
    else:
        plan = _plan_servers.plan_servers_absent(cluster, existing, module.params["nodes"])
    if plan.problems:
        raise _cloud.CloudError("Failed to plan the servers: " + "; ".join(plan.problems))
    result = _module.plan_result(module, plan)
    survivors = module.params.get("survivors") or ()
    holder = (
        _plan_servers.surviving_holder(cluster, existing, survivors) if module.params["state"] == "present" else None
    )
    result["initial_created"] = _plan_servers.creates_initial(cluster, existing, plan, survivors)
    if not module.check_mode:
        cloud.floating_ips.delete_floating_ips([change.subject for change in plan.of(_plan.FLOATING_IP, "delete")])
        plan = _delete(module, cluster, cloud, plan)
        cloud.ports.delete_ports([change.subject for change in plan.of(_plan.PORT, "delete")])
        for change in plan.of(_plan.SERVER_GROUP, "delete"):
            cloud.server_groups.delete_server_group(change.subject)
        if module.params["state"] == "present":
            if existing.etcd_server and result["initial_created"]:
                cloud.security_groups.record_etcd_server(
                    cluster.cluster_name, ""
                )  # an interrupted run goes on: there is nothing to lose now
            # Before the new server is there: without this record, a later run would take it for the one with the CA.
            if holder and holder.id != existing.etcd_server:
                cloud.security_groups.record_etcd_server(cluster.cluster_name, holder.id)
                existing = replace(existing, etcd_server=holder.id)
            result |= _create_missing(module, cluster, cloud, plan, existing)
        elif existing.etcd_server and module.params["nodes"] is None:
            cloud.security_groups.record_etcd_server(cluster.cluster_name, "")
    return result


def _start_foreign(module: AnsibleModule, cluster: Any, cloud: Any, existing: Any) -> dict[str, Any]:
    """Start an initial instance that Q8S did not create, if it is off, and wait until it is ACTIVE."""
    plan = _plan_servers.plan_foreign_started(cluster, existing)
    result = _module.plan_result(module, plan)
    for change in () if module.check_mode else plan.changes:
        for error in cloud.servers.start_servers([change.subject]).values():
            raise error
        cloud.servers.wait_until_started(change.subject, float(module.params["timeout"]))
    return result


def _delete(module: AnsibleModule, cluster: Any, cloud: Any, plan: Any) -> Any:
    """Delete the servers that go. Return the plan without those that stay; one that has a usable twin only gets a warning."""
    going = [change.subject for change in plan.of(_plan.SERVER, "delete")]
    replaced = [change.subject.old for change in plan.of(_plan.SERVER, "replace")]
    names = {server.id: server.name for server in (*going, *replaced)}
    left = cloud.servers.delete_servers([*going, *replaced], float(module.params["timeout"]))
    partial = module.params["state"] == "present" and module.params["partial"]
    if left and (not partial or cluster.name_of_initial_instance in [names[number] for number in left]):
        lines = "\n".join(f"- {reason}" for reason in left.values())
        hint = "hint: run it again; if servers stay in this state, ask the administrators of the cloud"
        if "locked" in lines:
            hint = "hint: unlock them (openstack server unlock), then run it again"
        raise _cloud.CloudError(f"Failed to remove {len(left)} of {len(names)} servers:\n{lines}\n{hint}")
    if not left:
        return plan
    wanted = {spec.name for spec in plan.wanted} - {server.name for server in replaced}
    for number, reason in left.items():
        if names[number] in wanted:
            module.warn(f"Of two servers called {names[number]}, one stays: {reason}")
    stuck = {names[number]: reason for number, reason in left.items() if names[number] not in wanted}
    changes = tuple(change for change in plan.changes if change.name not in stuck)
    return replace(plan, changes=changes, unusable={**plan.unusable, **stuck})


def _create_missing(module: AnsibleModule, cluster: Any, cloud: Any, plan: Any, existing: Any) -> dict[str, Any]:
    """Create and start the servers that are missing or stopped, and wait for them. Return all servers, and those that failed."""
    new = [change.subject for change in plan.of(_plan.SERVER, "create")]
    again = [change.subject.spec for change in plan.of(_plan.SERVER, "replace")]
    group_id = existing.group.id if existing.group and cluster.server_group != "none" else ""
    for change in plan.of(_plan.SERVER_GROUP, "create"):
        group_id = cloud.server_groups.create_server_group(change.name)
    started = [change.subject for change in plan.of(_plan.SERVER, "start")]
    refused = dict(cloud.servers.start_servers(started))
    requests = _server_requests.requests(new) + [_server_requests.Request((spec,)) for spec in again]
    refused |= _create(module, cluster, cloud, requests, group_id)
    # Wait for accepted servers even when others were refused: the next run then finds them complete.
    by_name = {spec.name: spec for spec in plan.wanted}
    names = set(by_name) - set(refused) - set(plan.unusable)
    ready, errors, late = _wait(module, cluster, cloud, existing, names)
    for server in started:
        if not _cloud_objects.is_ours(server, cluster.cluster_name) and server.name not in refused:
            cloud.servers.wait_until_started(server, float(module.params["timeout"]))
    # One that was there before has data: the next run says what would be lost, and asks.
    own = {spec.name for spec in (*new, *again)}
    replaceable = [server for server in errors if server.name in own]
    if replaceable:
        left = _delete_failed(module, cloud, replaceable)
        # One by one: a cloud that has no room for all servers of a call creates none of them.
        single = [_server_requests.Request((by_name[server.name],)) for server in replaceable]
        more = _create(module, cluster, cloud, single, group_id)
        refused.update(more)
        ready, errors, late = _wait(module, cluster, cloud, existing, names - set(more), ignored=left)
    etcd_server = _record_etcd_server(cluster, cloud, ready, existing)
    failed = {name: _text.first_line(error) for name, error in sorted(refused.items())}
    faults = {server.name: _cloud_errors.fault(server.fault) for server in errors}
    failed |= {name: f"server {name} is in ERROR: {reason}" for name, (reason, hint) in faults.items()}
    failed |= {**late, **plan.unusable}
    initial = cluster.name_of_initial_instance
    runs = initial not in by_name or any(s.name == initial or s.id == existing.etcd_server for s in ready)
    if failed and not (module.params["partial"] and runs):
        hints = {hint for error in refused.values() for hint in str(error).splitlines()[1:]}
        hints |= {hint for reason, hint in faults.values() if hint}
        raise _creation_error(failed, hints, len(by_name))
    for change in plan.of(_plan.FLOATING_IP, "create", "attach"):
        cloud.floating_ips.associate_floating_ip(cluster, change.subject, etcd_server)
    listed = [
        {"name": server.name, "id": server.id, "address": server.address(cluster.remote_ip_prefix)}
        for server in sorted(ready, key=lambda server: server.name)
    ]
    return {"servers": listed, "failed_servers": failed}


def _wait(
    module: AnsibleModule,
    cluster: Any,
    cloud: Any,
    existing: Any,
    names: Collection[str],
    *,
    ignored: Collection[str] = (),
) -> tuple[list[Any], list[Any], dict[str, str]]:
    """Wait for servers. Return those that are ACTIVE, those in ERROR, and by name the reason for each that is late.

    :param ignored: ids of servers in ERROR that do not count
    """
    ready, errors, late = cloud.servers.wait_until_active(cluster, names, float(module.params["timeout"]))
    errors = [server for server in errors if server.id not in ignored]
    ready, errors = _delete_twins(module, cluster, cloud, existing, ready=ready, errors=errors)
    return ready, errors, late


def _delete_failed(module: AnsibleModule, cloud: Any, servers: list[Any]) -> Collection[str]:
    """Delete servers that went to ERROR and are replaced. Return the ids of those that stay."""
    for server in servers:
        module.warn(f"The server {server.name} went to ERROR and is replaced: {_cloud_errors.fault(server.fault)[0]}")
    left: dict[str, str] = cloud.servers.delete_servers(servers, float(module.params["timeout"]))
    for reason in left.values():
        module.warn(f"A server that is replaced stays: {reason}")
    return left


def _creation_error(failed: Mapping[str, str], hints: Collection[str], total: int) -> _cloud.CloudError:
    """Return the error for servers that could not be created.

    :param failed: the reason for each, by name
    :param hints: what the errors of the cloud advise
    :param total: how many servers there should be
    """
    hints = hints or {"hint: run it again to replace what failed, or destroy the cluster to remove all of it"}
    # one line for each call
    lines = "\n".join(f"- {line}" for line in dict.fromkeys(failed.values()))
    return _cloud.CloudError(
        f"Failed to create {len(failed)} of {total} servers:\n{lines}\n" + "\n".join(sorted(hints))
    )


def _delete_twins(
    module: AnsibleModule, cluster: Any, cloud: Any, existing: Any, *, ready: list[Any], errors: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Delete surplus servers of one name that this run created, before anything is installed on them.

    A cloud that does not answer in time may create a server twice. Return the lists of servers with one of each name.
    """
    servers = [*ready, *errors]
    if len({server.name for server in servers}) == len(servers):
        return ready, errors
    # Read the record again: a run of somebody else may have created the other one, and its etcd.
    tags = cloud.security_groups.find_tags(cluster.cluster_name)[1]
    recorded = _cloud_tags.etcd_server(tags) or existing.etcd_server
    before = {server.id for server in existing.servers}
    by_name: dict[str, list[Any]] = {}
    for server in sorted(servers, key=lambda s: _cloud_objects.order_of_choice(s, recorded)):
        by_name.setdefault(server.name, []).append(server)
    # One that was there before may hold data. If all were, the next plan reports them.
    surplus = []
    chosen = []
    for twins in by_name.values():
        chosen.append(twins[0])
        surplus += [server for server in twins[1:] if server.id not in before]
    if surplus:
        names = ", ".join(sorted({server.name for server in surplus}))
        module.warn(f"The cloud created more than one server of these names; the surplus ones are deleted: {names}")
        for reason in cloud.servers.delete_servers(surplus, float(module.params["timeout"])).values():
            module.warn(f"Of several servers of one name, one stays: {reason}")
    return [s for s in ready if s in chosen], [s for s in errors if s in chosen]


def _record_etcd_server(cluster: Any, cloud: Any, ready: list[Any], existing: Any) -> str:
    """Record the initial control plane, before its CA is created: from then on it is never replaced without a yes.

    Return the recorded id, or nothing.
    """
    # It may be an additional control plane, which stands in for a deleted initial one.
    if any(server.id == existing.etcd_server for server in ready):
        return str(existing.etcd_server)
    initial = next((server for server in ready if server.name == cluster.name_of_initial_instance), None)
    initial = initial or _cloud_objects.foreign_initial(cluster, existing.servers)[0]
    if initial is None:
        return ""
    cloud.security_groups.record_etcd_server(cluster.cluster_name, initial.id)
    return str(initial.id)


def _create(module: AnsibleModule, cluster: Any, cloud: Any, requests: list[Any], group_id: str) -> dict[str, Any]:
    """Request servers, with ports of their own if they need them. Return the failures by server name."""
    if not requests:
        return {}
    needs = replace(cloud.clusters.find_needs(cluster), server_group=group_id)
    ports: dict[str, str] = {}
    if needs.network.own_ports:
        specs = [spec for request in requests for spec in request.specs]
        requests = [_server_requests.Request((spec,)) for spec in specs]  # Nova gives one port to one server only
        wanted = [spec.name for spec in specs]
        ports = {p.name: p.id for p in cloud.ports.list_ports(cluster.cluster_name) if p.ours and p.name in wanted}
        missing = [name for name in wanted if name not in ports]
        ports.update(cloud.ports.create_ports(cluster, needs.network, needs.groups, missing))
    public_key = module.params["public_key"]

    def first_boot(spec: Any) -> tuple[str, dict[str, str]]:
        text, metadata = _hostkeys.first_boot(spec, cluster.cluster_name, public_key)
        return text, {**metadata, **_identity.metadata(cluster)}

    refused: dict[str, Any] = cloud.servers.create_servers(
        cluster,
        needs,
        requests,
        first_boot,
        ports,
    )
    return refused


def main() -> None:
    """Run the module."""
    _module.run(
        {
            "public_key": {"type": "str", "no_log": False},
            "state": {**_module.STATE, "choices": ["present", "absent", "started"]},
            "nodes": {"type": "list", "elements": "str"},
            "remove_surplus": {"type": "bool", "default": False},
            "replace_control_plane": {"type": "bool", "default": False},
            "survivors": {"type": "list", "elements": "str", "default": []},
            "limit": {"type": "list", "elements": "str"},
            "keep_surplus": {"type": "list", "elements": "str", "default": []},
            "partial": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
        apply,
        required_if=[("state", "present", ["public_key"])],
    )


if __name__ == "__main__":
    main()
