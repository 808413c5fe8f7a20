#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write many small files in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Write many small files, links and folders in one call
version_added: 0.1.0
description:
  - Does what M(ansible.builtin.copy) and M(ansible.builtin.file) do for one path each, for all the files of a role at once.
    Most of what such a task costs is the call, so that a second run over an unchanged host takes seconds.
  - Everything belongs to the user that the module runs as. Missing parent folders are created with mode 0755.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Can run in check mode and say which paths would change.
    support: full
  diff_mode:
    description: Shows the contents before and after.
    support: full
options:
  files:
    description: An entry with O(files[].content) is a file, with O(files[].link) a symbolic link, with neither a folder.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: The file's text.
        type: str
      link:
        description: Target of a symbolic link.
        type: str
      mode:
        description: Permissions in octal; by default 0644 for a file and 0755 for a folder.
        type: str
  pending:
    description:
      - Absolute path of a file that is created before the first change. As long as it exists, the task is changed and notifies its handlers, so that
        a run that is killed before them does not leave a service with its earlier files. The last of the handlers has to remove it.
      - Below C(/run), a reboot forgets it, which starts the services anew, too.
    type: path
    version_added: 0.2.0
"""

EXAMPLES = r"""
- name: Write the settings
  q8s.emu.files:
    files:
      - path: /etc/q8s
      - path: /etc/modules-load.d/q8s.conf
        content: "overlay\nbr_netfilter\n"
      - path: /usr/local/bin/kubectl
        link: /var/lib/q8s/bin/kubectl

- name: Write the configuration, which has to be loaded
  q8s.emu.files:
    files:
      - path: /etc/haproxy/haproxy.cfg
        content: "{{ lookup('ansible.builtin.template', 'haproxy.cfg.j2') }}"
    pending: /run/q8s-pending/haproxy
  notify:
    - Reload HAProxy
    - Record that HAProxy is reloaded
"""

RETURN = r"""
paths:
  description: Paths that were created or changed.
  returned: always
  type: list
  elements: str
  sample: [/etc/modules-load.d/q8s.conf]
"""

import os
import stat
import tempfile
from typing import Any, NamedTuple, Optional

from ansible.module_utils.basic import AnsibleModule


class Entry(NamedTuple):
    """A path with its current or wanted content."""

    path: str
    kind: str  # file, link, folder, or other, which is never overwritten
    mode: int  # of a link: 0
    text: str  # content, or target of a link


def wanted_entry(item: dict[str, Any]) -> Entry:
    """Return what an item of the argument asks for.

    :raises ValueError: it has both content and link, no absolute path, or no octal mode
    """
    path, content, link = item["path"], item.get("content"), item.get("link")
    if not os.path.isabs(path):
        raise ValueError(f"path {path!r} must be absolute")
    if content is not None and link is not None:
        raise ValueError(f"{path}: content and link cannot be used together")
    if link is not None:
        return Entry(path, "link", 0, link)
    try:
        mode = int(item.get("mode") or ("0755" if content is None else "0644"), 8)
    except ValueError as error:
        raise ValueError(f"{path}: mode {item['mode']!r} must be octal") from error
    return Entry(path, "folder", mode, "") if content is None else Entry(path, "file", mode, content)


def existing_entry(path: str) -> Optional[Entry]:
    """Return the current state of a path, None if it does not exist."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, "link", 0, os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, "folder", mode, "")
    if stat.S_ISREG(status.st_mode):
        with open(path, encoding="utf-8", errors="replace", newline="") as stream:
            return Entry(path, "file", mode, stream.read())
    return Entry(path, "other", mode, "")


def apply(module: AnsibleModule, entry: Entry, existing: Optional[Entry]) -> None:
    """Bring a path to the wanted state. A file is replaced atomically."""
    os.makedirs(os.path.dirname(entry.path), mode=0o755, exist_ok=True)
    if entry.kind == "folder":
        if existing is None:
            os.mkdir(entry.path)
        os.chmod(entry.path, entry.mode)
    elif entry.kind == "link":
        temporary = f"{entry.path}.q8s-new"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(entry.text, temporary)
        os.replace(temporary, entry.path)
    elif existing == entry._replace(mode=existing.mode if existing else 0):
        os.chmod(entry.path, entry.mode)
    else:
        descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(entry.text)
        os.chmod(temporary, entry.mode)
        module.atomic_move(temporary, entry.path)
        os.chmod(entry.path, entry.mode)


def describe(entry: Optional[Entry]) -> str:
    """Return the state as text for a diff."""
    if entry is None:
        return ""
    if entry.kind == "link":
        return f"link to {entry.text}\n"
    return f"{entry.kind}, mode {entry.mode:04o}\n{entry.text}"


def main() -> None:
    item = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "link": {"type": "str"},
        "mode": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": item},
            "pending": {"type": "path"},
        },
        supports_check_mode=True,
    )
    paths, diff = [], []
    path, pending = "", module.params["pending"]
    interrupted = bool(pending) and os.path.exists(pending)
    try:
        for entry in [wanted_entry(item) for item in module.params["files"]]:
            path = entry.path
            existing = existing_entry(path)
            if existing == entry:
                continue
            if existing and "folder" in (entry.kind, existing.kind) and entry.kind != existing.kind:
                raise ValueError(f"a {existing.kind} is there, and is not replaced by a {entry.kind}")
            if existing and existing.kind == "other":
                raise ValueError("neither a file, a link nor a folder is there; it is not replaced")
            paths.append(path)
            header = {"before_header": path, "after_header": path}
            diff.append({**header, "before": describe(existing), "after": describe(entry)})
            if not module.check_mode:
                if pending and len(paths) == 1:
                    apply(module, Entry(pending, "file", 0o600, ""), existing_entry(pending))
                apply(module, entry, existing)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"Failed to write {path or 'the files'}: {error}", changed=bool(paths), paths=paths)
    if interrupted:
        diff.append({"before": f"new files are not in force yet: {pending}\n", "after": ""})
    module.exit_json(changed=interrupted or bool(paths), paths=paths, diff=diff)


if __name__ == "__main__":
    main()
