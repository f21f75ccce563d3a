"""What is noted of each lesion's looks."""

from pathlib import Path

import pytest

from osteomet.data.attributes import NOTHING_KNOWN, read_attributes
from osteomet.errors import AnnotationError
from osteomet.structures import ATTRIBUTES, UNKNOWN


def write(folder: Path, *lines: str) -> Path:
    path = folder / "lesions.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_types_and_flags(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "label,bone,type,expansile,cortical",
        "1,body,lytic,1,0",
        "2,rib,sclerotic,0,1",
        "3,rib,Mixed,,",
        "7,rib,,1,",
    )
    assert ATTRIBUTES == ("lytic", "sclerotic", "expansile", "cortical")
    assert read_attributes(path) == {
        1: (1, 0, 1, 0),
        2: (0, 1, 0, 1),
        3: (1, 1, UNKNOWN, UNKNOWN),
        7: (UNKNOWN, UNKNOWN, 1, UNKNOWN),
    }


def test_columns_may_be_left_out(tmp_path: Path) -> None:
    assert read_attributes(write(tmp_path, "label", "4")) == {4: NOTHING_KNOWN}
    assert read_attributes(write(tmp_path, "label,type")) == {}
    assert read_attributes(None) == {}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("type", "lytic"), "no column 'label' among type"),
        (("label,type", "1,osteoblastic"), "line 2: type is 'osteoblastic'; expected lytic"),
        (("label,expansile", "1,1", "2,yes"), "line 3: expansile is 'yes'; expected 1, 0"),
        (("label", "0"), "line 2: label is '0'; expected a whole number"),
        (("label", "1.5"), "line 2: label is '1.5'"),
        (("label", "1", "1"), "line 3: label 1 is there twice"),
    ],
)
def test_one_clear_error(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(AnnotationError, match=message.replace("(", r"\(")):
        read_attributes(write(tmp_path, *lines))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"lesions\.csv: cannot be read"):
        read_attributes(tmp_path / "lesions.csv")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lesions.csv"
    path.write_bytes(b"label\n\xff\xfe\n")
    with pytest.raises(AnnotationError, match="not a CSV file"):
        read_attributes(path)
