"""Write the pages of the documentation that the code generates, or check (``--check``) that they are current."""

import sys
from pathlib import Path
from typing import Final

# Run as a file, from the Makefile.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "collections"))

from tools import cluster_file_docs, command_line_docs, troubleshooting_docs

PAGES: Final = {
    cluster_file_docs.PAGE: cluster_file_docs.page,
    cluster_file_docs.SCHEMA: cluster_file_docs.schema,
    command_line_docs.PAGE: command_line_docs.page,
    troubleshooting_docs.PAGE: troubleshooting_docs.page,
}


def main() -> None:
    """Write the pages that differ. With ``--check``, name them and fail instead."""
    texts = {file: write() for file, write in PAGES.items()}
    stale = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"error: not current: {', '.join(map(str, stale))}\nhint: run make reference and commit the pages")
        return
    for file in stale:
        file.parent.mkdir(exist_ok=True)
        file.write_text(texts[file])


if __name__ == "__main__":
    main()
