"""The text of the OpenStack services' configuration files, and the passwords in them."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_lab import package_proxy
from q8s_lab.settings import REGION, Settings

_VENDOR_DATA: Final = "vendor-data.json"


@dataclass(frozen=True)
class Secrets:
    """The passwords of a lab, generated at each start."""

    admin: str
    service: str
    database: str

    @classmethod
    def new(cls) -> Secrets:
        """Generate new passwords."""
        return cls(secrets.token_hex(16), secrets.token_hex(16), secrets.token_hex(16))


def database_url(settings: Settings, passwords: Secrets, name: str) -> str:
    """Return the SQLAlchemy URL of a database."""
    return f"mysql+pymysql://os:{passwords.database}@127.0.0.1:{settings.ports['mariadb']}/{name}?charset=utf8"


def configuration(settings: Settings, environment: Path, passwords: Secrets) -> dict[str, str]:
    """Return the text of all configuration files, by file name."""
    sections = _Sections(settings, environment, passwords)
    return {
        "keystone.conf": _keystone(sections),
        "glance-api.conf": _glance(sections),
        "placement.conf": _placement(sections),
        "neutron.conf": _neutron(sections),
        "nova.conf": _nova(sections),
        _VENDOR_DATA: json.dumps({"cloud-init": package_proxy.vendor_data(settings)}),
    }


@dataclass(frozen=True)
class _Sections:
    """Settings that several files need, and the sections that they share."""

    settings: Settings
    environment: Path
    passwords: Secrets

    @property
    def folder(self) -> Path:
        """Return the lab's folder."""
        return self.settings.folder

    def user(self, name: str) -> str:
        """Return the options with which a service logs in."""
        return f"""\
auth_type = password
auth_url = {self.settings.url("keystone")}/v3
username = {name}
password = {self.passwords.service}
project_name = service
user_domain_id = default
project_domain_id = default
"""

    def token(self, name: str) -> str:
        """Return the section with which a service checks tokens."""
        return (
            f"[keystone_authtoken]\n{self.user(name)}www_authenticate_uri = {self.settings.url('keystone')}/v3\n"
            "interface = internal\nservice_token_roles_required = true\n"
        )

    def database(self, name: str) -> str:
        """Return the option with a database."""
        return f"connection = {database_url(self.settings, self.passwords, name)}\n"


def _keystone(sections: _Sections) -> str:
    """Return Keystone's configuration file."""
    return f"""\
[DEFAULT]
log_file = {sections.folder}/log/keystone.log
[database]
{sections.database("keystone")}
[token]
provider = fernet
[fernet_tokens]
key_repository = {sections.folder}/state/fernet
[credential]
key_repository = {sections.folder}/state/credential
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = dogpile.cache.memory
"""


def _glance(sections: _Sections) -> str:
    """Return Glance's configuration file."""
    return f"""\
[DEFAULT]
log_file = {sections.folder}/log/glance.log
enabled_backends = fs:file
enabled_import_methods = [glance-direct]
workers = 1
node_staging_uri = file://{sections.folder}/state/staging
[os_glance_staging_store]
filesystem_store_datadir = {sections.folder}/state/staging
[os_glance_tasks_store]
filesystem_store_datadir = {sections.folder}/state/tasks
[database]
{sections.database("glance")}
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {sections.folder}/glance
[paste_deploy]
flavor = keystone
config_file = {sections.environment}/etc/glance/glance-api-paste.ini
{sections.token("glance")}"""


def _placement(sections: _Sections) -> str:
    """Return Placement's configuration file."""
    return f"""\
[DEFAULT]
log_file = {sections.folder}/log/placement.log
[api]
auth_strategy = keystone
[placement_database]
{sections.database("placement")}
{sections.token("placement")}"""


def _neutron(sections: _Sections) -> str:
    """Return Neutron's configuration file."""
    return f"""\
[DEFAULT]
log_file = {sections.folder}/log/neutron.log
state_path = {sections.folder}/state
core_plugin = ml2
service_plugins = router
transport_url = fake://
auth_strategy = keystone
api_paste_config = {sections.environment}/etc/neutron/api-paste.ini
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
rpc_workers = 0
dhcp_agent_notification = false
[oslo_concurrency]
lock_path = {sections.folder}/state/lock
[database]
{sections.database("neutron")}
[ml2]
type_drivers = local,flat
tenant_network_types = local
mechanism_drivers = q8s
extension_drivers = port_security
[ml2_type_flat]
flat_networks = *
{sections.token("neutron")}"""


def _nova(sections: _Sections) -> str:
    """Return Nova's configuration file."""
    return f"""\
[DEFAULT]
log_file = {sections.folder}/log/nova.log
state_path = {sections.folder}/state
my_ip = 127.0.0.1
host = lab
transport_url = fake://
compute_driver = q8s_lab.LabDriver
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
rpc_response_timeout = 60
service_down_time = 86400
sync_power_state_interval = 10
cpu_allocation_ratio = 1.0
[oslo_concurrency]
lock_path = {sections.folder}/state/lock
[database]
{sections.database("nova_cell1")}
[api_database]
{sections.database("nova_api")}
[wsgi]
api_paste_config = {sections.environment}/etc/nova/api-paste.ini
[glance]
endpoint_override = {sections.settings.url("glance")}
[neutron]
{sections.user("neutron")}
endpoint_override = {sections.settings.url("neutron")}
[placement]
{sections.user("placement")}
region_name = {REGION}
[service_user]
{sections.user("nova")}
send_service_user_token = true
[conductor]
workers = 1
[scheduler]
workers = 1
max_attempts = 1
[filter_scheduler]
track_instance_changes = true
[vnc]
enabled = false
[api]
vendordata_jsonfile_path = {sections.folder}/etc/{_VENDOR_DATA}
{sections.token("nova")}"""
