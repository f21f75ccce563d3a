"""What osteomet does to prepare a scan; run by `prepare.py`, and apart to import nothing more.

It takes image, mask and folder, and prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

from osteomet.data.manifest import Case
from osteomet.data.prepared_scan import prepare_scan
from osteomet.findings import PrimaryTumour

SPACING_MM = 1.0


def peak_mb() -> float:
    """Return the most memory so far; getrusage would count the process that started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Prepare one scan, and say what it took."""
    image, mask, folder = map(Path, sys.argv[1:])
    case = Case("case", "case", image, mask, "A", PrimaryTumour.LUNG)
    started_mb = peak_mb()
    cpu, wall = time.process_time(), time.perf_counter()
    prepare_scan(case, folder, SPACING_MM)
    found = {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": peak_mb(),
        "started_mb": started_mb,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
