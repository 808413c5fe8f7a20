"""Print the path of a Go toolchain that builds the bundle's programs. Fetch it if this machine has none."""

import sys

from q8s_bundle.errors import BundleError
from q8s_bundle.node import toolchain

try:
    print(toolchain.require())
except BundleError as error:
    sys.exit(f"error: {error}\nhint: {error.hint}")
