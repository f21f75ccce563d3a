"""What the pages claim holds, and the checker finds what does not."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from osteomet.config import LossConfig
from osteomet.data.manifest import OPTIONAL, REQUIRED
from osteomet.simulate import SimulationConfig, attainable_auc
from osteomet.simulate.primaries import LUNG, OTHERS

ROOT = Path(__file__).parents[1]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


checker = _load(ROOT / "docs" / "check_links.py")


@pytest.mark.parametrize("path", checker.pages(), ids=lambda path: path.name)
def test_page_holds(path: Path) -> None:
    assert checker.problems(path) == []


def test_all_pages_are_checked() -> None:
    names = {path.name for path in checker.pages()}
    assert {"README.md", "ARCHITECTURE.md", "MODEL_CARD.md", "training.md", "input.md"} <= names


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "index.md" or f"]({path.name})" in index, path.name


def test_places_for_figures_are_marked() -> None:
    for name, marks in {"README.md": ["metrics"], "MODEL_CARD.md": ["metrics", "training"]}.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for mark in marks:
            assert text.count(f"<!-- {mark}:start -->") == 1, f"{name}: {mark}"
            assert text.count(f"<!-- {mark}:end -->") == 1, f"{name}: {mark}"


def first_cells(page: str, heading: str) -> list[str]:
    """Return the names in the first column of the table below a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"# {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_columns_of_a_cohort() -> None:
    assert sorted(first_cells("cohort.md", "Columns")) == sorted(REQUIRED + OPTIONAL)


def test_terms_of_the_loss() -> None:
    assert first_cells("training.md", "Loss") == list(LossConfig.model_fields)


def test_priors_of_simulated_patients() -> None:
    text = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    for one in (LUNG, *(tumour for _, tumour in OTHERS)):
        shares = (one.lytic, one.mixed, one.sclerotic, one.expansile, one.cortical)
        assert f"| {one.name} | " + " | ".join(f"{v:.2f}" for v in shares) + " |" in text
    config = SimulationConfig()
    low, high = config.field_mm
    for claim in (
        f"lung with probability {config.lung_share:g}; else "
        + ", ".join(f"{tumour.name} {share:.2f}" for share, tumour in OTHERS),
        f"none with probability {config.lesion_free_share:g}; else log-normal, "
        f"median {config.median_lesions:g}, sigma 0.65, 1 to {config.max_lesions}",
        f"median {config.median_diameter_mm:g} mm, sigma {config.diameter_spread:g}",
        f"ribs {config.thoracic_share:.2f}, lumbar spine {config.lumbar_share:.2f}",
        f"{low:g} to {high:g} mm each",
    ):
        assert claim in text


@pytest.mark.parametrize("page", ["docs/simulation.md", "MODEL_CARD.md"])
def test_ceiling_of_the_class(page: str) -> None:
    auc = attainable_auc(SimulationConfig(), patients=5000)
    claim = re.search(r"patient\s+AUC\s+of\s+(0\.\d+)", (ROOT / page).read_text(encoding="utf-8"))
    assert claim is not None
    assert float(claim[1]) == pytest.approx(auc, abs=0.015)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem
)
def test_examples_import_what_there_is(path: Path) -> None:
    assert callable(_load(path).main)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](none.md)", "there is no none.md"),
        ("[a](#nowhere)", "no such heading"),
        ("`osteomet trian --cohort c.csv`", "there is no command trian"),
        ("`osteomet train --chort c.csv`", "has no option --chort"),
        ("`osteomet --versoin`", "has no option --versoin"),
        ("```bash\nosteomet train \\\n  --resum\n```", "has no option --resum"),
        ("```bash\nosteomet predict IN... -o OUT [--wieghts NAME]\n```", "no option --wieghts"),
        ("`osteomet train --set training.sed=1`", "there is no setting training.sed"),
        ("`training.sed`", "there is no such setting"),
        ('`model.rpn.mather = "iou"`', "there is no such setting"),
        ("```toml\n[training]\nsed = 1\n```", "did you mean 'seed'"),
        ("`make coffee`", "the Makefile has no coffee"),
        ("```python\nx = = 1\n```", "block of Python"),
        ("```python\nfrom osteomet.config import Confg\n```", "has no Confg"),
        ("`configs/none.toml`", "no such file"),
    ],
)
def test_what_is_wrong_is_found(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"# Title\n\n{text}\n", encoding="utf-8")
    found = checker.problems(path)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "[a](#title) [b](https://example.org/none.md) [c](page.md#title)",
        "`osteomet train --cohort c.csv -o RUN [--resume] [--set section.key=value]...`",
        "```bash\n$ osteomet predict scan/ -o out  # with a --comment\n```",
        "`osteomet COMMAND --help`, `osteomet --version`, `osteomet`",
        '`training.seed`, `model.losses`, `model.rpn.matcher = "atss"`, `inference/merge.py`',
        "```toml\n[training]\nseed = 1\n```",
        "`make demo`, `configs/NAME.toml`, `configs/tiny.toml`",
        "```\nosteomet nothing --like this\n```",
    ],
)
def test_what_is_right_passes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"# Title\n\n{text}\n", encoding="utf-8")
    assert checker.problems(path) == []
