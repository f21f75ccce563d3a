"""Put measured figures into the pages: `python docs/write_metrics.py NAME TABLE.md PAGE.md...`.

Replaces what stands between `<!-- NAME:start -->` and `<!-- NAME:end -->` in each page by the
file's content, so that no figure is copied by hand.
"""

import re
import sys
from pathlib import Path


def replace_block(page: str, name: str, content: str) -> str:
    """Return the page with the block ``name`` replaced.

    Raises:
        ValueError: the page has no such block.
    """
    pattern = re.compile(rf"(<!-- {name}:start -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda m: m[1] + content.strip() + "\n" + m[2], page)
    if count == 0:
        raise ValueError(f"no block <!-- {name}:start --> to fill")
    return replaced


def main() -> None:
    """Fill the block in every page named on the command line."""
    name, table, *pages = sys.argv[1:]
    content = Path(table).read_text(encoding="utf-8")
    for page in map(Path, pages):
        text = page.read_text(encoding="utf-8")
        page.write_text(replace_block(text, name, content), encoding="utf-8")


if __name__ == "__main__":
    main()
