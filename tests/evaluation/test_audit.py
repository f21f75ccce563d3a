"""Printed figures against brute force over all confusion matrices, and the paper's own tables."""

from fractions import Fraction
from pathlib import Path

import pytest

from osteomet.errors import ConfigError, InputError
from osteomet.evaluation.audit import (
    Matrix,
    Printed,
    PrintedRow,
    all_matrices,
    common_sizes,
    implied_share,
    matrices,
    parse_cohort,
    read_rows,
)
from osteomet.evaluation.audit_text import audit_markdown

# Zhao et al., J Bone Oncol 2024; 48: 100637, Table 2: accuracy, sensitivity, specificity, F1.
TEST_ROWS = {
    "ResNet-50": (".864", ".846", ".889", ".880"),
    "ConvNeXt-Base": (".864", ".846", ".889", ".880"),
    "ResNet-101": (".864", ".769", "1.000", ".870"),
    "ConvNeXt-V2-Base": (".886", ".808", "1.000", ".894"),
    "YOLO-V8": (".841", ".885", ".778", ".868"),
}
TRAIN_ROWS = {
    "ResNet-50": (".853", ".830", ".878", ".854"),
    "ConvNeXt-Base": (".892", ".906", ".878", ".897"),
    "ResNet-101": (".912", ".868", ".959", ".911"),
    "ConvNeXt-V2-Base": (".951", ".925", ".980", ".951"),
    "YOLO-V8": (".853", ".736", ".980", ".839"),
}
HEADER = "name,accuracy,sensitivity,specificity,f1\n"


def row(name: str, *figures: str | None) -> PrintedRow:
    keys = ("accuracy", "sensitivity", "specificity", "f1")
    return PrintedRow.parse(name, dict(zip(keys, figures, strict=False)))


def rows(table: dict[str, tuple[str, ...]]) -> list[PrintedRow]:
    return [row(name, *figures) for name, figures in table.items()]


def near(value: Fraction | None, printed: str | None) -> bool:
    """Say whether a value rounds to what is printed, halves either way."""
    if printed is None:
        return True
    digits = len(printed.partition(".")[2])
    half = Fraction(1, 2 * 10**digits)
    return value is not None and abs(value - Fraction(printed)) <= half


def brute_force(figures: tuple[str | None, ...], most: int) -> set[Matrix]:
    found = set()
    for n in range(2, most + 1):
        for p in range(1, n):
            for tp in range(p + 1):
                for tn in range(n - p + 1):
                    errors = n - tp - tn
                    f1 = Fraction(2 * tp, 2 * tp + errors) if tp + errors else None
                    shares = (Fraction(tp + tn, n), Fraction(tp, p), Fraction(tn, n - p), f1)
                    if all(near(*pair) for pair in zip(shares, figures, strict=True)):
                        found.add(Matrix(tp, p - tp, n - p - tn, tn))
    return found


@pytest.mark.parametrize(
    "figures",
    [
        (".86", ".77", "1.00", ".87"),
        (".9", ".9", ".9", ".9"),
        (".50", None, ".5", None),
        (None, ".667", None, ".571"),
        ("1.0", "1.0", None, None),
        (".123", ".456", ".789", ".321"),
        (None, None, "0.00", ".00"),
    ],
)
def test_equals_brute_force(figures: tuple[str | None, ...]) -> None:
    found = all_matrices(row("row", *figures), 26)
    assert len(set(found)) == len(found)
    assert set(found) == brute_force(figures, 26)


def test_the_papers_test_row_is_21_of_26_and_18_of_18() -> None:
    best = row("V2", *TEST_ROWS["ConvNeXt-V2-Base"])
    assert all_matrices(best, 87) == [Matrix(tp=21, fn=5, fp=0, tn=18)]
    assert list(matrices(best, 56, 50)) == []
    intervals = Matrix(21, 5, 0, 18).intervals()
    assert intervals["specificity"][:2] == (18, 18)
    assert intervals["specificity"][2] == pytest.approx((0.815, 1.0), abs=5e-4)
    assert intervals["sensitivity"][2] == pytest.approx((0.606, 0.934), abs=5e-4)
    assert intervals["accuracy"][2] == pytest.approx((0.754, 0.962), abs=5e-4)


def test_the_papers_cohorts_are_44_and_102() -> None:
    assert common_sizes(rows(TEST_ROWS), 130) == [(26, 18), (52, 36)]
    assert common_sizes(rows(TRAIN_ROWS), 130) == [(53, 49)]
    for table in (TEST_ROWS, TRAIN_ROWS):
        for one in rows(table):
            assert not list(matrices(one, 56, 50))
            assert not list(matrices(one, 89, 176))


@pytest.mark.parametrize(
    ("figures", "share", "cohort"),
    [((".866", ".875", ".835"), 0.775, (89, 176)), ((".836", ".847", ".819"), 0.607, (56, 50))],
)
def test_the_papers_abstract_fits_no_cohort(
    figures: tuple[str, ...], share: float, cohort: tuple[int, int]
) -> None:
    abstract = row("abstract", *figures)
    low, high = implied_share(abstract) or (0.0, 0.0)
    assert low < share < high
    assert not low <= cohort[0] / sum(cohort) <= high
    assert list(matrices(abstract, *cohort)) == []


def test_no_share_is_implied_without_three_distinct_figures() -> None:
    assert implied_share(row("a", ".9", ".9", ".9")) is None
    assert implied_share(row("a", ".9", ".8", None, ".7")) is None


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (".886", "0.8855", "0.8865"),
        ("0.9", "0.85", "0.95"),
        ("0.90", "0.895", "0.905"),
        ("88.6%", "0.8855", "0.8865"),
        ("100 %", "0.995", "1"),
        ("1.000", "0.9995", "1"),
        ("0", "0", "0.5"),
    ],
)
def test_digits_say_how_it_was_rounded(text: str, low: str, high: str) -> None:
    printed = Printed.parse(text)
    assert (printed.low, printed.high) == (Fraction(low), Fraction(high))


@pytest.mark.parametrize("text", ["", "high", "1.2", "-0.5", "120%", "0,9"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="accuracy is"):
        Printed.parse(text, "accuracy")


def test_tables_and_cohorts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEADER + "V2,.886,.808,1.000,.894\nother,.9,,.8,\n")
    first, second = read_rows(path)
    assert first == row("V2", *TEST_ROWS["ConvNeXt-V2-Base"])
    assert second.sensitivity is None
    assert parse_cohort(" 26/18 ") == (26, 18)
    with pytest.raises(ConfigError, match="positives/negatives"):
        parse_cohort("44")
    path.write_text(HEADER + "V2,.886,,,\n")
    with pytest.raises(ConfigError, match="V2: 1 figures"):
        read_rows(path)
    path.write_text("model,acc\nV2,.886\n")
    with pytest.raises(InputError, match="expected name and at least two of accuracy"):
        read_rows(path)
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_rows(tmp_path / "none.csv")


def test_the_text_says_it_all() -> None:
    text = audit_markdown(rows(TEST_ROWS), [(26, 18), (56, 50)], 60)
    assert "| 44 | 26 | 18 | 21 | 5 | 0 | 18 |" in text
    assert "| specificity | 18/18 | 0.815 to 1.000 |" in text
    assert "positive/negative: 44 = 26/18." in text
    assert "- ConvNeXt-V2-Base: possible: TP 21, FN 5, FP 0, TN 18" in text
    assert text.count("impossible") == 5
    nothing = audit_markdown([row("abstract", ".836", ".847", ".819")], [], 60)
    assert "No confusion matrix of up to 60 patients" in nothing
