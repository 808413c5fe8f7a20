# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy large files to a host in pieces: with progress, and from where an interrupted copy stopped."""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.q8s.emu.plugins.plugin_utils._build import show

_PIECE: Final = 8 << 20  # bytes: of one ssh command, and lost when the connection breaks
_ATTEMPTS: Final = 5  # for each piece
_PAUSE: Final = 5  # seconds before another attempt
_SHOW_SECONDS: Final = 1
_STEP_SECONDS: Final = 30  # between two lines of a log; a terminal shows each second


@dataclass(frozen=True)
class File:
    """A file to be uploaded: its path on the controller, its path on the host, its size, and which of how many it is.

    :param sha256: the checksum that it must have; empty if it is not known
    """

    source: str
    target: str
    size: int
    number: int
    total: int
    sha256: str = ""

    @property
    def part(self) -> str:
        """The path on the host of what has arrived so far."""
        return f"{self.target}.part"

    @property
    def name(self) -> str:
        return os.path.basename(self.target)


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return which files were uploaded, and how many bytes went over the connection."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            {
                "files": {
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "options": {
                        "name": {"type": "str", "required": True},
                        "path": {"type": "path", "required": True},
                        "sha256": {"type": "str", "default": ""},
                    },
                },
                "directory": {"type": "path", "required": True},
            }
        )[1]
        present = self._names(arguments["directory"])
        missing = [file for file in arguments["files"] if file["name"] not in present]
        files = [
            File(
                file["path"],
                f"{arguments['directory']}/{file['name']}",
                os.path.getsize(file["path"]),
                number,
                len(missing),
                file["sha256"],
            )
            for number, file in enumerate(missing, 1)
        ]
        sent = 0 if self._task.check_mode else sum(self._upload(file) for file in files)
        uploaded = [file.name for file in files]
        return {**result, "changed": bool(files), "uploaded": uploaded, "bytes": sent}

    def _names(self, directory: str) -> frozenset[str]:
        """Return the names in a folder of the host. In check mode the folder may be missing."""
        # Ansible may run the command on a terminal, where ls writes columns.
        return frozenset(self._shell(f"ls -1A {shlex.quote(directory)} 2>/dev/null || true").splitlines())

    def _upload(self, file: File) -> int:
        """Upload one file, and return the bytes that were sent.

        :raises AnsibleActionFail: the file is damaged, or what arrived is not what was sent, twice
        """
        with open(file.source, "rb") as source:
            checksum = hashlib.file_digest(source, "sha256").hexdigest()
        if file.sha256 and checksum != file.sha256:
            raise AnsibleActionFail(
                f"Failed to upload {file.name}: {file.source} is damaged: its SHA-256 is {checksum}, expected "
                f"{file.sha256}. Remove its folder {os.path.dirname(file.source)}, and run this again to build it"
            )
        sent = 0
        for attempt in range(2):
            if attempt:  # what arrived began with the rest of an upload of something else
                self._shell(f"rm -f {shlex.quote(file.part)}")
            sent += self._append(file)
            check = f"echo {shlex.quote(f'{checksum}  {file.part}')} | sha256sum --check --status"
            target, part = shlex.quote(file.target), shlex.quote(file.part)
            # A file that has its name is not uploaded again, so its content has to survive a crash of the host.
            keep = f"chmod 0644 {part} && sync {part} && mv -f {part} {target} && echo good"
            if self._shell(f"if {check}; then {keep}; fi").strip():
                return sent
        raise AnsibleActionFail(
            f"Failed to upload {file.name}: the checksum of the copy is not that of {file.source}. "
            f"Remove {file.part} on the host, and run this again"
        )

    def _append(self, file: File) -> int:
        """Send what the host does not have yet, and return how many bytes that was."""
        progress, sent = Progress(file, show, time.monotonic), 0
        with open(file.source, "rb") as source:
            offset = self._arrived(file)
            progress.begin(offset)
            for piece in pieces(source, offset):
                for attempt in range(1, _ATTEMPTS + 1):
                    try:
                        if attempt > 1:
                            # What arrived of the piece is kept out: the piece is sent again.
                            self._shell(f"truncate --size={offset} {shlex.quote(file.part)}")
                        self._shell(f"cat >> {shlex.quote(file.part)}", piece)
                        break
                    except AnsibleConnectionFailure:
                        if attempt == _ATTEMPTS:
                            raise
                        time.sleep(_PAUSE)
                        self._connection.reset()
                offset += len(piece)
                sent += len(piece)
                progress.arrived(offset)
        progress.end(sent)
        return sent

    def _arrived(self, file: File) -> int:
        """Return how much of a file an earlier run has uploaded, 0 if that is more than the file has."""
        text = self._shell(f"stat --format=%s {shlex.quote(file.part)} 2>/dev/null || echo 0").strip()
        size = int(text)
        if size <= file.size:
            return size
        self._shell(f"rm -f {shlex.quote(file.part)}")
        return 0

    def _shell(self, command: str, data: bytes | None = None) -> str:
        """Run a shell command on the host, and return its output.

        :raises AnsibleActionFail: the command failed
        """
        done = self._low_level_execute_command(command, in_data=data)
        if done["rc"]:
            raise AnsibleActionFail(f"Failed to upload: {done['stderr'].strip() or done['stdout'].strip()}")
        return str(done["stdout"])


def pieces(source: BinaryIO, offset: int) -> Iterator[bytes]:
    """Yield the pieces of a file after an offset."""
    source.seek(offset)
    while piece := source.read(_PIECE):
        yield piece


class Progress:
    """Shows how much of a file has arrived, and how fast."""

    def __init__(self, file: File, report: Callable[[dict[str, Any]], None], clock: Callable[[], float]) -> None:
        self._file, self._report, self._clock = file, report, clock
        self._offset = 0
        self._start = self._shown = self._logged = clock()

    def begin(self, offset: int) -> None:
        """Show the start of an upload, or where it is resumed."""
        self._offset = offset
        since = f" from {megabytes(offset)} of {megabytes(self._file.size)} MB" if offset else ""
        self._emit("step", f"upload{since}")

    def arrived(self, offset: int) -> None:
        """Show how much has arrived: on a terminal each second, in a log twice a minute."""
        now = self._clock()
        text = f"{megabytes(offset)} of {megabytes(self._file.size)} MB, {self._rate(offset - self._offset)}"
        if now - self._logged >= _STEP_SECONDS:
            self._logged = self._shown = now
            self._emit("step", f"upload: {text}")
        elif now - self._shown >= _SHOW_SECONDS:
            self._shown = now
            self._emit("note", f"upload: {text}")

    def end(self, sent: int) -> None:
        """Show the end of an upload."""
        seconds = self._clock() - self._start
        self._emit("uploaded", f"uploaded {megabytes(sent)} MB in {seconds:.1f} s, {self._rate(sent)}")

    def _rate(self, sent: int) -> str:
        return f"{sent / 1e6 / max(self._clock() - self._start, 0.001):.1f} MB/s"

    def _emit(self, event: str, text: str) -> None:
        place = {"artifact": self._file.name, "number": self._file.number, "total": self._file.total}
        self._report({"event": event, "text": text, "step": text, **place})


def megabytes(size: int) -> str:
    """Format a number of bytes in MB."""
    return f"{size / 1e6:.0f}" if size >= 1e7 else f"{size / 1e6:.1f}"
