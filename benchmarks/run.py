"""All that `make bench` measures, in less than twenty minutes of two idle cores.

Every part is a script of its own, which writes a page beside this file and can be run alone.
`results.md` joins the pages, and says on what machine and with which commands they were made.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from osteomet.cli import SPINS

HERE = Path(__file__).parent
LIBRARIES = ("osteomet", "torch", "numpy", "numba", "monai", "scipy", "SimpleITK", "pydicom")


@dataclass(frozen=True)
class Part:
    """One script.

    Attributes:
        script: its name; its page has the same.
        options: of its command.
    """

    script: str
    options: tuple[str, ...] = ()

    @property
    def page(self) -> Path:
        return HERE / f"{self.script}.md"

    @property
    def command(self) -> str:
        return shlex.join(["python", f"benchmarks/{self.script}.py", *self.options])

    def run(self, places: Mapping[str, str]) -> float:
        """Run the script with places put for their names; return its seconds.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        options = list(self.options)
        for name, place in places.items():
            options = [option.replace(name, place) for option in options]
        started = time.perf_counter()
        command = [sys.executable, str(HERE / f"{self.script}.py"), *options]
        subprocess.run(command, check=True, env={"GOMP_SPINCOUNT": SPINS, **os.environ})
        return time.perf_counter() - started


def parts(*, with_nnunet: bool) -> tuple[Part, ...]:
    """Return the scripts in their order; the scan that is simulated for one serves the others."""
    peer = ("--nnunet", "PYTHON", "--nnunet-tiles", "1") if with_nnunet else ()
    return (
        Part("operators", ("--output", "benchmarks/operators.md")),
        Part("training_step", ("--output", "benchmarks/training_step.md")),
        Part("whole_scan", ("--folder", "FOLDER", "--runs", "3", *peer)),
        Part("growth", ("--folder", "FOLDER")),
        Part("runtimes", ("--output", "benchmarks/runtimes.md")),
    )


def machine() -> str:
    """Return the machine and the versions in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text(encoding="utf-8"))
        model = names[0] if names else model
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    return f"{model}, {os.cpu_count()} cores. Python {platform.python_version()}, {versions}."


def join_pages(done: Sequence[tuple[Part, float]], described: str) -> str:
    """Return one page of all, headings a level lower."""
    lines = [
        "# Benchmarks",
        "",
        f"Repeat with `make bench`. {described}",
        "",
        "| command | minutes | page |",
        "| --- | --- | --- |",
        *(
            f"| `{part.command}` | {seconds / 60:.1f} | [{part.page.name}]({part.page.name}) |"
            for part, seconds in done
        ),
        f"| together | {sum(seconds for _, seconds in done) / 60:.1f} | |",
    ]
    for part, _ in done:
        page = part.page.read_text(encoding="utf-8").strip()
        lines += ["", re.sub(r"^#", "##", page, flags=re.MULTILINE)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="for scans, kept; none takes a temporary one")
    parser.add_argument("--nnunet", help="interpreter with nnU-Net v2, for the comparison")
    options = parser.parse_args()
    done = []
    with tempfile.TemporaryDirectory() as temporary:
        places = {
            "FOLDER": str(options.folder or temporary),
            "PYTHON": options.nnunet or "",
            "benchmarks/": f"{HERE}/",
        }
        for part in parts(with_nnunet=options.nnunet is not None):
            print(f"{part.script} ...", flush=True)
            done.append((part, part.run(places)))
    (HERE / "results.md").write_text(join_pages(done, machine()), encoding="utf-8")


if __name__ == "__main__":
    main()
