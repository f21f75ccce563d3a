"""``osteomet reproduce``: a cohort -> the paper's tables and figure, ours beside the paper's.

It may be killed at any point: every file appears whole or not at all, a stage is noted once it is
done, training goes on from its last checkpoint, and predicting with the first patient that lacks
a result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from osteomet.config import Config
from osteomet.data.prepare import STORE_FOLDER
from osteomet.evaluation.statistics import RESAMPLES
from osteomet.reporting.reproduce_html import write_reproduction
from osteomet.reporting.reproduce_results import ArchitectureResult, Reproduction
from osteomet.reproduce.plan import CENTRE, PAPER, make_plan, open_folder
from osteomet.reproduce.stages import Stopped, Work, do_all


@dataclass(frozen=True)
class Reproduced:
    """How far a reproduction has come.

    Attributes:
        page: with all that is done; None before the first architecture is.
        missing: architectures that are not done, since a signal stopped the training.
    """

    page: Path | None
    missing: tuple[str, ...]


def reproduce(  # noqa: PLR0913 - one keyword for each option of the command
    cohort_path: Path,
    folder: Path,
    config: Config,
    *,
    protocol: str = "p1",
    centre: str = CENTRE,
    test_centre: str | None = None,
    architectures: Sequence[str] = PAPER,
    device: str = "auto",
    store_dir: Path | None = None,
    resamples: int = RESAMPLES,
    console: Console | None = None,
) -> Reproduced:
    """Split, train, calibrate, predict and evaluate each architecture; write the tables.

    The tables are written anew after each architecture, with those that are done. The same call
    goes on where the last one ended; other architectures may be asked for later.

    Args:
        cohort_path: ``cohort.csv``; any split in it is replaced, in a copy.
        folder: of all results, made where it is missing.
        config: settings of all architectures but the name of the backbone.
        protocol: ``p1``, external validation, or ``p2``, random shares.
        centre: that trains in P1, and is split in P2.
        test_centre: that tests in P1; None takes all others.
        architectures: names of backbones.
        device: auto, cpu, cuda or mps.
        store_dir: where resampled scans are kept; None takes the cohort's own.
        resamples: bootstrap draws of patients.
        console: for progress; None is silent.

    Raises:
        ConfigError: settings do not fit, or the folder was begun with others.
        InputError: the cohort cannot do the protocol, or a scan cannot be used.
        OsteometError: a stage cannot be done.
    """
    plan = make_plan(cohort_path, config, protocol, centre, test_centre, architectures)
    cohort = open_folder(plan, folder)
    results: list[ArchitectureResult] = []
    page: Path | None = None
    for name, settings in plan.configs.items():
        work = Work(
            name=name,
            config=settings,
            folder=folder / name,
            cohort=cohort,
            store=store_dir or cohort_path.parent / STORE_FOLDER,
            device=device,
            resamples=resamples,
            console=console,
        )
        try:
            results.append(do_all(work))
        except Stopped:
            break
        reproduction = Reproduction(plan.told(), plan.patients, tuple(plan.configs), tuple(results))
        page = write_reproduction(reproduction, folder)
    return Reproduced(page, tuple(plan.configs)[len(results) :])
