#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait for cloud-init, check whether another process installs packages, and end what was interrupted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package_lock
short_description: Check that no other process installs packages
version_added: 0.1.0
description:
  - Fails while another process holds a lock of dpkg or apt, and names the process. A new server often installs updates at its first boot (unattended-upgrades).
  - If none does, it waits until cloud-init has ended, well or not, and looks again. cloud-init sets up mirrors and proxies after one can log in.
  - Then it ends an installation that was interrupted, such as by a loss of power (dpkg --configure -a), because apt refuses to install anything before.
  - Use it with C(retries) and C(until) before a task that installs packages. It takes no lock itself.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Says whether it would end an interrupted installation.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  paths:
    description: The lock files.
    type: list
    elements: path
    default: [/var/lib/dpkg/lock-frontend, /var/lib/dpkg/lock, /var/lib/apt/lists/lock, /var/cache/apt/archives/lock]
  cloud_init_seconds:
    description: How long to wait for cloud-init. The module warns about one that has not ended by then, and goes on. It does not wait in check mode.
    type: int
    default: 600
  updates:
    description: The folder in which dpkg keeps what it has not written to its database yet. It has such files only after an interruption.
    type: path
    default: /var/lib/dpkg/updates
"""

EXAMPLES = r"""
- name: Wait until other package installations have finished
  q8s.emu.package_lock:
  register: package_lock
  retries: 60
  delay: 10
  until: package_lock is success
"""

RETURN = r"""
path:
  description: The lock file that another process holds, empty if there is none.
  returned: always
  type: str
  sample: /var/lib/dpkg/lock-frontend
holder:
  description: The process that holds it, empty if it is not known.
  returned: always
  type: str
  sample: unattended-upgr (process 812)
"""

import fcntl
import os
import struct

from ansible.module_utils.basic import AnsibleModule

# struct flock of fcntl(2) on Linux: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = "hhqqi4x"
_TIMED_OUT = 124  # of timeout(1)


def wait_for_cloud_init(module: AnsibleModule, seconds: int) -> None:
    """Wait until cloud-init, if the server has it, has ended, well or not. Warn about one that has not after that time."""
    program = module.get_bin_path("cloud-init")
    if program and module.run_command(["timeout", str(seconds), program, "status", "--wait"])[0] == _TIMED_OUT:
        module.warn(
            f"cloud-init has not ended within {seconds} s. Packages are installed nevertheless; "
            "cloud-init status --long on the server shows what it does."
        )


def lock_owner(path: str) -> int:
    """Return the id of the process that has a write lock on a file, 0 if none has.

    -1 stands for a process that cannot be seen from here, such as one of another container.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, request))
    finally:
        os.close(descriptor)
    return 0 if kind == fcntl.F_UNLCK else int(pid) or -1


def held_locks(paths: list[str]) -> list[tuple[str, int]]:
    """Return the files that are locked, each with its owner's process id."""
    return [(path, owner) for path in paths if (owner := lock_owner(path))]


def was_interrupted(updates: str) -> bool:
    """Return whether dpkg was ended in its work, as apt finds out: by files whose names are numbers."""
    try:
        return any(name.isdigit() for name in os.listdir(updates))
    except FileNotFoundError:
        return False


def end_interrupted(module: AnsibleModule) -> None:
    """Configure what an interrupted dpkg has unpacked. Files of /etc that somebody has changed stay."""
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    command = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]
    code, _output, errors = module.run_command(command, environ_update=environment)
    if code != 0:
        reason = errors.strip() or f"dpkg ended with exit code {code}"
        module.fail_json(msg=f"Failed to end an interrupted installation: {reason}", path="", holder="")


def process_name(pid: int) -> str:
    """Return a process's name and id, empty if it is not known."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return f"{stream.read().strip()} (process {pid})"
    except OSError:
        return ""


def main() -> None:
    default = [
        "/var/lib/dpkg/lock-frontend",
        "/var/lib/dpkg/lock",
        "/var/lib/apt/lists/lock",
        "/var/cache/apt/archives/lock",
    ]
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": default},
            "cloud_init_seconds": {"type": "int", "default": 600},
            "updates": {"type": "path", "default": "/var/lib/dpkg/updates"},
        },
        supports_check_mode=True,
    )
    try:
        held = held_locks(module.params["paths"])
        # Not while a lock is held: a task that retries would wait for a cloud-init that hangs in apt each time.
        if not held and not module.check_mode:
            wait_for_cloud_init(module, module.params["cloud_init_seconds"])
            held = held_locks(module.params["paths"])
    except OSError as error:
        module.fail_json(msg=f"Failed to read the package locks: {error}", path="", holder="")
    if held:
        path, owner = held[0]
        holder = process_name(owner)
        module.fail_json(
            msg=f"{holder or 'Another process'} installs packages and holds {path}. "
            "A new server often installs updates at its first boot. Wait until it has finished, then run this again.",
            path=path,
            holder=holder,
        )
    interrupted = was_interrupted(module.params["updates"])
    if interrupted and not module.check_mode:
        end_interrupted(module)
    module.exit_json(changed=interrupted, path="", holder="")


if __name__ == "__main__":
    main()
