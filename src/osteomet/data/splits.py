"""Protocols: who trains, who validates and who tests, by patient.

- P1: one centre trains and validates, the others test: external validation.
- P2: the patients of one centre, or of all, are drawn 70 : 15 : 15.
- k-fold: each patient tests once; of the others one share validates.

Each side has its share of every primary; a seed draws the same sides again, whatever the order of
the rows. No patient is on two sides.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from osteomet.data.manifest import SPLITS, Case, Cohort, read_cohort, shuffled, with_split
from osteomet.data.manifest_writer import write_cohort
from osteomet.errors import AnnotationError, ConfigError, InputError, ReportError
from osteomet.findings import PrimaryTumour

PROTOCOLS = ("p1", "p2", "kfold")
VALIDATION_SHARE = 0.15
P2_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}


@dataclass(frozen=True)
class SplitFile:
    """A cohort file with its split.

    Attributes:
        patients: by side, of lung, other and unknown primary.
    """

    path: Path
    patients: dict[str, tuple[int, int, int]]


def write_protocol(
    protocol: str,
    source: Path,
    output: Path,
    *,
    centre: str | None = None,
    test_centre: str | None = None,
    fold_count: int = 5,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> list[SplitFile]:
    """Write a cohort split by a protocol; the source stays as it is.

    Each file appears whole or not at all. The same command writes the same files again.

    Args:
        protocol: one of ``PROTOCOLS``.
        source: ``cohort.csv``.
        output: the new file; a folder for k-fold, with ``fold-1.csv`` and so on.
        centre: that trains in P1, and whose patients are kept by the others; None keeps all.
        test_centre: that tests in P1; None takes all others.
        fold_count: of k-fold.
        validation_share: of the patients that are not set aside for test, except in P2.
        seed: of all draws.

    Raises:
        ConfigError: there is no such protocol, or P1 has no centre.
        InputError: the cohort cannot be read, or has too few patients for the protocol.
        AnnotationError: a row is wrong, or a patient would be on two sides.
        ReportError: a file cannot be written, or the source would be replaced.
    """
    cohort = read_cohort(source)
    if protocol == "p1":
        if centre is None:
            raise ConfigError("protocol p1 without a centre; expected --centre: who trains")
        splits = {
            output: external_centre(
                cohort,
                centre,
                test_centre=test_centre,
                validation_share=validation_share,
                seed=seed,
            )
        }
    elif protocol == "p2":
        splits = {output: random_shares(cohort, centre=centre, seed=seed)}
    elif protocol == "kfold":
        made = folds(
            cohort, fold_count, centre=centre, validation_share=validation_share, seed=seed
        )
        splits = {output / f"fold-{place}.csv": one for place, one in enumerate(made, start=1)}
    else:
        raise ConfigError(f"protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    for path, split in splits.items():
        _write(path, split, source)
    return [SplitFile(path, _counts(split)) for path, split in splits.items()]


def external_centre(
    cohort: Cohort,
    train_centre: str,
    *,
    test_centre: str | None = None,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> Cohort:
    """Split as P1: train and validate on one centre, test on another.

    Args:
        cohort: any split it has is replaced.
        train_centre: whose patients train and validate.
        test_centre: whose patients test; None takes all other centres.
        validation_share: share of the training centre's patients that validates.
        seed: of the draw of those.

    Raises:
        InputError: a centre has no patient, or too few.
        AnnotationError: a patient has scans in both centres.
    """
    inside = _of_centre(cohort, train_centre)
    if test_centre is None:
        outside = tuple(case for case in cohort.cases if case.centre != train_centre)
        if not outside:
            raise InputError(f"all scans are of centre {train_centre!r}; expected another to test")
    else:
        outside = _of_centre(cohort, test_centre)
    ours = with_split(
        replace(cohort, cases=inside),
        seed,
        {"train": 1 - validation_share, "val": validation_share},
    )
    return _checked(cohort, [*ours.cases, *(replace(case, split="test") for case in outside)])


def random_shares(
    cohort: Cohort,
    *,
    centre: str | None = None,
    shares: Mapping[str, float] = P2_SHARES,
    seed: int = 0,
) -> Cohort:
    """Split as P2: at random, by shares of patients, alike in primaries.

    Args:
        cohort: any split it has is replaced.
        centre: whose patients are kept; None keeps all, and shares out each centre alike.
        shares: of ``train``, ``val`` and ``test``; they sum to 1.
        seed: another seed draws other sides.

    Raises:
        InputError: there is no patient of that centre, or fewer than sides.
    """
    cases = cohort.cases if centre is None else _of_centre(cohort, centre)
    split = with_split(replace(cohort, cases=tuple(cases)), seed, shares)
    return _checked(cohort, split.cases)


def folds(
    cohort: Cohort,
    count: int,
    *,
    centre: str | None = None,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> list[Cohort]:
    """Return one split for each fold: every patient tests in exactly one of them.

    Args:
        cohort: any split it has is replaced.
        count: folds, at least 2.
        centre: whose patients are kept; None keeps all.
        validation_share: share of the patients outside the fold that validates.
        seed: another seed draws other folds.

    Raises:
        InputError: there are too few patients.
    """
    cases = cohort.cases if centre is None else _of_centre(cohort, centre)
    fold_of = _deal(cases, count, seed)
    made = []
    for fold in range(count):
        others = tuple(case for case in cases if fold_of[case.patient_id] != fold)
        shares = {"train": 1 - validation_share, "val": validation_share}
        side = {
            case.scan_id: case.split
            for case in with_split(replace(cohort, cases=others), seed, shares).cases
        }
        made.append(
            _checked(
                cohort, [replace(case, split=side.get(case.scan_id, "test")) for case in cases]
            )
        )
    return made


def check_sides(cases: Iterable[Case]) -> None:
    """Refuse a split in which a patient is on two sides.

    Raises:
        AnnotationError: the first such patient is named.
    """
    sides: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        sides[case.patient_id].add(case.split or "none")
    for patient, its in sides.items():
        if len(its) > 1:
            raise AnnotationError(
                f"patient {patient!r} would be on the sides {' and '.join(sorted(its))}; expected "
                "one side a patient: give all its scans one centre, or leave the patient out"
            )


def _deal(cases: Iterable[Case], count: int, seed: int) -> dict[str, int]:
    """Deal patients out like cards, sorted by primary and centre, then at random."""
    strata = {case.patient_id: (case.primary.value, case.centre) for case in cases}
    if count < 2:
        raise InputError(f"{count} folds; expected at least 2")
    if len(strata) < count:
        raise InputError(f"{len(strata)} patients for {count} folds; expected at least one each")
    order = sorted(strata, key=lambda patient: (strata[patient], shuffled(seed, patient)))
    return {patient: place % count for place, patient in enumerate(order)}


def _of_centre(cohort: Cohort, centre: str) -> tuple[Case, ...]:
    cases = tuple(case for case in cohort.cases if case.centre == centre)
    if not cases:
        there = ", ".join(sorted({case.centre for case in cohort.cases}))
        raise InputError(f"no scan is of centre {centre!r}; there are {there}")
    return cases


def _checked(cohort: Cohort, cases: Iterable[Case]) -> Cohort:
    """Return the split in the cohort's order, once no patient is on two sides."""
    place = {case.scan_id: number for number, case in enumerate(cohort.cases)}
    ordered = tuple(sorted(cases, key=lambda case: place[case.scan_id]))
    check_sides(ordered)
    return replace(cohort, cases=ordered)


def _write(path: Path, cohort: Cohort, source: Path) -> None:
    if path.exists() and path.samefile(source):
        raise ReportError(f"{path}: is the cohort that is read; expected another file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(
            f"{path.parent}: cannot be made: {error.strerror}; expected a writable folder"
        ) from error
    write_cohort(path, cohort.cases)


def _counts(cohort: Cohort) -> dict[str, tuple[int, int, int]]:
    """Count patients by side and primary."""
    patients = {case.patient_id: (case.split, case.primary) for case in cohort.cases}
    counted = Counter(patients.values())
    lung, other, unknown = PrimaryTumour.LUNG, PrimaryTumour.OTHER, PrimaryTumour.UNKNOWN
    return {
        side: (counted[side, lung], counted[side, other], counted[side, unknown])
        for side in SPLITS
        if any(key[0] == side for key in counted)
    }
