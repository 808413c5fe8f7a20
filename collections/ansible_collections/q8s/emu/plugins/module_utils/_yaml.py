# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PyYAML's safe loader with a limit of its own for nested text.

Without it, Python's own limit ends the loader. Whatever is finalized at that moment then fails as well, and prints that.
"""

from __future__ import annotations

from typing import Any

try:
    import yaml
except ImportError:  # a module gets its cluster as data, and may run where there is no PyYAML
    HAS_YAML = False
else:
    HAS_YAML = True

    _MAX_DEPTH = 100

    class Loader(yaml.SafeLoader):
        """Loads text in YAML.

        :raises RecursionError: it is nested too deeply
        """

        _depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self._depth == _MAX_DEPTH:
                raise RecursionError("nested too deeply")
            self._depth += 1
            try:
                return super().compose_node(parent, index)
            finally:
                self._depth -= 1
