"""Settings are refused with a message that says which, what was found and what is near."""

import json
from pathlib import Path
from typing import Any

import pytest

from osteomet.config import Config, load_config, parse_assignment, parse_config
from osteomet.errors import ConfigError


def test_defaults_are_valid_and_frozen() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 3  # type: ignore[misc]  # the point of the test


def test_json_round_trip() -> None:
    config = Config().updated({"model.neck.levels": (2, 3, 4), "training.budget_minutes": 16})
    assert parse_config(json.loads(config.model_dump_json()), "here") == config


def test_digest_follows_every_setting() -> None:
    config = Config()
    assert config.sha256() == Config().sha256()
    assert config.updated({"augment.noise_hu": 24.0}).sha256() != config.sha256()
    assert config.updated({"augment.noise_hu": 25}).sha256() == config.sha256()  # 25 is 25.0


class TestFile:
    def test_partial_file_keeps_defaults(self, tmp_path: Path) -> None:
        path = tmp_path / "some.toml"
        path.write_text("[model.backbone]\nstem_stride = 2\n[training]\nseed = 7\n")
        config = load_config(path)
        assert config.model.backbone.stem_stride == 2
        assert config.training.seed == 7
        assert config.training.batch_size == Config().training.batch_size

    def test_empty_file_is_the_default(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.toml"
        path.write_text("")
        assert load_config(path) == Config()

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
            load_config(tmp_path / "none.toml")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load_config(tmp_path)

    def test_broken_toml_names_the_line(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.toml"
        path.write_text("[training]\nseed = \n")
        with pytest.raises(ConfigError, match=r"broken\.toml: not TOML: .*line 2"):
            load_config(path)

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "binary.toml"
        path.write_bytes(b"\xff\xfe\x00seed")
        with pytest.raises(ConfigError, match=r"binary\.toml: not TOML"):
            load_config(path)

    def test_unknown_key_names_the_nearest_and_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "typo.toml"
        path.write_text("[training]\nlearning_rte = 1e-3\n")
        expected = (
            r"typo\.toml: unknown setting 'training.learning_rte': did you mean 'learning_rate'\?"
        )
        with pytest.raises(ConfigError, match=expected):
            load_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modle": {}}, r"unknown setting 'modle': did you mean 'model'\?"),
        ({"model": {"rpn": {"mather": "iou"}}}, r"'model.rpn.mather': did you mean 'matcher'\?"),
        ({"model": {"neck": {"zzz": 1}}}, "'model.neck.zzz': known: levels, channels, convolution"),
        ({"training": {"batch_size": 0}}, "training.batch_size: .*greater than or equal to 1"),
        ({"training": {"batch_size": 1.5}}, "training.batch_size: .*got 1.5"),
        ({"training": {"schedule": "linear"}}, "training.schedule: .*'cosine'.*got 'linear'"),
        ({"training": 3}, "training: .*got 3"),
        ({"preprocess": {"std_hu": 0}}, "preprocess.std_hu: .*greater than 0"),
        ({"preprocess": {"window_hu": [300, -300]}}, "preprocess: window_hu must rise"),
        ({"model": {"losses": {"box": -1}}}, "model.losses.box: .*greater than or equal to 0"),
        ({"model": {"mask_head": {"size": 15}}}, "mask size must be even, got 15"),
        ({"model": {"neck": {"levels": [3, 2]}}}, r"model.neck: levels must rise, got \(3, 2\)"),
        ({"model": {"neck": {"levels": [2, 2, 3]}}}, "levels must rise"),
        ({"model": {"neck": {"levels": [2, 3]}}}, "3 tuples for 2 neck.levels; expected one per"),
        ({"model": {"neck": {"levels": [1, 2, 3]}}}, "stem_stride 4 makes level 2 the finest"),
        ({"model": {"anchors": {"sizes_mm": [[8], [16, 20], [30]]}}}, "as many sizes"),
        ({"model": {"backbone": {"depths": [1, 1]}}}, "depths are of 2 stages and dims of 4"),
        ({"model": {"rpn": {"positive_iou": 0.2}}}, "negative_iou 0.3 exceeds positive_iou 0.2"),
        ({"model": {"box_head": {"negative_iou": 0.5}}}, "negative_iou 0.5 exceeds positive_iou"),
        ({"data": {"patch_size": [32, 96, 96]}}, "level 4 has 2 cells a side.*enlarge"),
    ],
)
def test_wrong_content(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: .*{message}"):
        parse_config(content, "here")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["training.learning_rate", "preprocess.mean_hu", "model.losses.mask"]
)
def test_infinity_and_nan_are_no_settings(name: str, value: float) -> None:
    """JSON, in which weights keep their settings, has neither."""
    with pytest.raises(ConfigError, match=name):
        Config().updated({name: value})


def test_a_message_is_one_short_line() -> None:
    for name in ("data.patch_size", "model.neck.levels", "model.anchors.sizes_mm"):
        with pytest.raises(ConfigError) as raised:
            Config().updated({name: "nonsense " * 100})
        assert len(str(raised.value)) < 250
        assert "\n" not in str(raised.value)


class TestAssignment:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a.b=3", 3),
            ("a.b=1e-3", 1e-3),
            ("a.b = true", True),
            ("a.b=[64, 64, 64]", [64, 64, 64]),
            ("a.b=[[8.0], [16.0]]", [[8.0], [16.0]]),
            ('a.b="step"', "step"),
            ("a.b=step", "step"),  # shells eat quotes
            ("a.b= step ", "step"),
            ("a.b=x=y", "x=y"),
            ("a.b=", ""),
        ],
    )
    def test_value_is_read_as_in_toml(self, text: str, value: object) -> None:
        assert parse_assignment(text) == ("a.b", value)

    @pytest.mark.parametrize("text", ["training.seed", "", "training.seed 3"])
    def test_without_equals(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"expected section\.key=value"):
            parse_assignment(text)


class TestUpdated:
    def test_replaces_and_keeps_the_rest(self) -> None:
        given = dict(map(parse_assignment, ["training.schedule=step", "model.rpn.matcher=iou"]))
        config = Config().updated(given)
        assert config.training.schedule == "step"
        assert config.model.rpn.matcher == "iou"
        assert config.data == Config().data

    def test_settings_that_depend_on_each_other_change_together(self) -> None:
        config = Config().updated(
            {
                "model.backbone.stem_stride": 2,
                "model.neck.levels": [1, 2],
                "model.anchors.sizes_mm": [[6.0], [12.0]],
            }
        )
        assert config.model.neck.levels == (1, 2)

    def test_nothing_is_the_same(self) -> None:
        assert Config().updated({}) == Config()

    def test_optional_setting_takes_none(self) -> None:
        config = Config().updated({"training.budget_minutes": 4})
        assert config.updated({"training.budget_minutes": None}) == Config()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("training.sed", r"unknown setting 'training.sed': did you mean 'seed'\?"),
            ("trainin.seed", r"unknown setting 'trainin.seed': did you mean 'training'\?"),
            ("seed", "unknown setting 'seed'"),
            ("training.seed.value", "unknown setting 'training.seed.value'"),
            ("model.rpn.hidden", "unknown setting 'model.rpn.hidden': known: matcher"),
            ("", "unknown setting ''"),
        ],
    )
    def test_unknown_name(self, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Config().updated({name: 1})


def test_unknown_backbone_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no backbone 'resnet52': did you mean 'resnet50'\?.*"):
        parse_config({"model": {"backbone": {"name": "resnet52"}}}, "test")


def test_stochastic_depth_is_refused_where_there_is_none() -> None:
    backbone = {"name": "yolov8m", "drop_path": 0.1}
    with pytest.raises(
        ConfigError, match=r"drop_path is 0\.1, but yolov8m has no stochastic depth"
    ):
        parse_config({"model": {"backbone": backbone}}, "test")


@pytest.mark.parametrize(
    ("given", "batch_size", "expected"),
    [
        ("auto", 7, "group"),
        ("auto", 8, "batch"),
        ("instance", 8, "instance"),
        ("batch", 1, "batch"),
    ],
)
def test_normalisation_follows_the_batch_unless_it_is_given(
    given: str, batch_size: int, expected: str
) -> None:
    settings = {"model.backbone.normalisation": given, "training.batch_size": batch_size}
    assert Config().updated(settings).resolved().model.backbone.normalisation == expected
