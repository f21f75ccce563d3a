"""``python -m osteomet.cli``."""

from osteomet.cli import main

main()
