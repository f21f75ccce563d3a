"""The whole network on small patches: it learns, stays alive, and bears empty images."""

import pytest
import torch
from torch.nn import functional as F

from osteomet.config import (
    AnchorConfig,
    BackboneConfig,
    Config,
    LossConfig,
    ModelConfig,
    NeckConfig,
)
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.models.processes import PartialLoss, losses_over_processes
from osteomet.models.roi_heads import assign_levels, attribute_loss, class_loss, mask_losses
from osteomet.models.segmentation import SegmentationBranch, segmentation_loss
from osteomet.ops.boxes import box_iou
from osteomet.ops.space_to_depth import depth_to_space
from osteomet.structures import ATTRIBUTES, LUNG, METASTASIS, OTHER, UNKNOWN, Targets

SIDE = 32


def tiny_config(**changes: object) -> ModelConfig:
    return ModelConfig(
        backbone=BackboneConfig(dims=(16, 24), depths=(1, 1)),
        neck=NeckConfig(levels=(2, 3), channels=16),
        anchors=AnchorConfig(sizes_mm=((8.0,), (14.0,))),
    ).model_copy(update=changes)


def whole(loss: PartialLoss) -> torch.Tensor:
    """Return the loss of a batch that one process has."""
    return losses_over_processes({"loss": loss})["loss"]


def no_lesion() -> Targets:
    return Targets(
        torch.zeros(0, 6),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(SIDE, SIDE, SIDE, dtype=torch.int16),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0, 6),
        torch.zeros(0, len(ATTRIBUTES), dtype=torch.long),
    )


def sphere_image(seed: int) -> tuple[torch.Tensor, Targets]:
    """One bright (lung) or dark (other) sphere in noise."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.randint(8, SIDE - 8, (3,), generator=generator)
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 3, indexing="ij"), -1)
    inside = ((grid - center) ** 2).sum(-1) <= 25
    label = LUNG if seed % 2 else OTHER
    image = 0.3 * torch.randn(SIDE, SIDE, SIDE, generator=generator)
    image = torch.where(inside, image + (2.0 if label == LUNG else -2.0), image)
    points = inside.nonzero()
    box = torch.cat([points.min(0).values, points.max(0).values + 1]).float()
    return image, Targets(
        box[None],
        torch.tensor([label]),
        inside.to(torch.int16),
        torch.tensor([1]),
        torch.zeros(0, 6),
        torch.tensor([[int(label == OTHER), int(label == LUNG), UNKNOWN, 0]]),
    )


@pytest.fixture(scope="module")
def trained() -> MaskRCNN:
    torch.manual_seed(0)
    # Every proposal is kept, so that scores of background are seen too.
    model = MaskRCNN(tiny_config(min_score=0.0), spacing_mm=1.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(100):
        images, targets = zip(*[sphere_image(2 * step + i) for i in range(2)], strict=True)
        _, losses = model(torch.stack(images)[:, None], list(targets))
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    return model


def test_after_100_steps_units_are_alive_and_scores_differ(trained: MaskRCNN) -> None:
    """Prototypes that learned nothing had no live unit in the first fully connected layer."""
    active = {}
    for place in (2, 5):
        layer = trained.roi_heads.box_head.layers[place]
        layer.register_forward_hook(
            lambda _m, _i, out, place=place: active.__setitem__(place, (out > 0).any(dim=0))
        )
    trained.eval()
    with torch.no_grad():
        detections, _ = trained(torch.stack([sphere_image(1000 + i)[0] for i in range(4)])[:, None])
    assert all(alive.float().mean() > 0.5 for alive in active.values())
    scores = torch.cat([d.scores for d in detections])
    assert scores.std() > 0.05


def test_it_learns_where_what_and_which_voxels(trained: MaskRCNN) -> None:
    trained.eval()
    for seed in (1001, 1002):
        image, target = sphere_image(seed)
        with torch.no_grad():
            (found,), _ = trained(image[None, None])
        # The hit rule of evaluation; after 100 steps the edges are still rough.
        assert box_iou(found.boxes[:1], target.boxes).item() >= 0.1
        assert (found.p_lung[0] > 0.5).item() == (target.labels[0] == LUNG).item()
        # Bright spheres are noted as sclerotic, dark ones as lytic, none as cortical.
        lytic, sclerotic, _, cortical = found.attributes[0].tolist()
        assert (sclerotic > lytic) == (target.labels[0] == LUNG).item()
        assert cortical < 0.5


def test_attributes_that_nobody_noted_train_nothing() -> None:
    logits = torch.randn(3, len(ATTRIBUTES), requires_grad=True)
    noted = torch.tensor([[1, 0, UNKNOWN, UNKNOWN], [UNKNOWN] * 4, [0, UNKNOWN, 1, UNKNOWN]])
    whole(attribute_loss(logits, noted)).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, noted != UNKNOWN)
    p = logits.detach().sigmoid()
    expected = -torch.stack([p[0, 0], 1 - p[0, 1], 1 - p[2, 0], p[2, 2]]).log().mean()
    assert whole(attribute_loss(logits, noted)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert whole(attribute_loss(logits[1:2], noted[1:2])).item() == 0


def test_each_positive_gets_the_attributes_of_its_own_lesion() -> None:
    torch.manual_seed(0)
    losses = LossConfig(rpn_objectness=0, rpn_box=0, classes=0, box=0, mask=0, mask_dice=0)
    model = MaskRCNN(tiny_config(losses=losses.model_copy(update={"segmentation": 0.0})), 1.0)
    head = model.roi_heads.box_head.attributes
    assert head is not None
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([-9.0, 9.0, 0.0, -9.0]))
    images, targets = zip(*[sphere_image(seed) for seed in (1, 2, 3)], strict=True)
    for chosen, right in (((0, 2), True), ((1,), False)):
        batch = torch.stack([images[i] for i in chosen])[:, None]
        _, terms = model(batch, [targets[i] for i in chosen])
        assert (terms["attributes"].item() < 0.1) == right


def test_without_their_loss_there_are_no_attributes() -> None:
    model = MaskRCNN(tiny_config(losses=LossConfig(attributes=0.0)), 1.0).eval()
    image, target = sphere_image(1)
    (found,), losses = model(image[None, None], [target])
    assert found.attributes.shape == (len(found), 0)
    assert "attributes" not in losses


def test_images_without_a_lesion_train_without_nan() -> None:
    torch.manual_seed(0)
    model = MaskRCNN(tiny_config(), 1.0)
    _, losses = model(torch.randn(2, 1, SIDE, SIDE, SIDE), [no_lesion(), no_lesion()])
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["box"].item() == losses["mask"].item() == losses["rpn_box"].item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_box_without_a_mask_trains_class_and_box_but_no_mask() -> None:
    torch.manual_seed(0)
    _, target = sphere_image(1)
    boxed = Targets(
        target.boxes, target.labels, torch.zeros_like(target.instances),
        torch.tensor([0]), target.ignore_boxes, target.attributes,
    )  # fmt: skip
    _, losses = MaskRCNN(tiny_config(), 1.0)(torch.randn(1, 1, SIDE, SIDE, SIDE), [boxed])
    assert losses["mask"].item() == 0
    assert losses["box"].item() > 0


def test_eval_detects_and_measures_losses_in_one_pass() -> None:
    image, target = sphere_image(3)
    model = MaskRCNN(tiny_config(), 1.0).eval()
    detections, losses = model(image[None, None], [target])
    assert len(detections) == 1
    assert set(losses) == {
        "rpn_objectness", "rpn_box", "segmentation", "classes", "box", "attributes", "mask",
        "mask_dice",
    }  # fmt: skip
    assert model(image[None, None])[1] == {}


@pytest.mark.parametrize("terms", [{"segmentation": 0.0}, {"mask_dice": 0.0}])
def test_a_loss_of_weight_zero_is_absent(terms: dict[str, float]) -> None:
    config = tiny_config()
    config = config.model_copy(update={"losses": config.losses.model_copy(update=terms)})
    image, target = sphere_image(3)
    _, losses = MaskRCNN(config, 1.0)(image[None, None], [target])
    assert not set(terms) & set(losses)


def test_dense_convolutions_and_a_level_beyond_the_backbone() -> None:
    config = ModelConfig(
        backbone=BackboneConfig(dims=(8, 12), depths=(1, 1)),
        neck=NeckConfig(levels=(2, 3, 4), channels=8, convolution="dense"),
        anchors=AnchorConfig(sizes_mm=((8.0,), (14.0,), (20.0,)), ratios=(0.5, 1.0, 2.0)),
    )
    image, target = sphere_image(3)
    _, losses = MaskRCNN(config, 1.0)(image[None, None], [target])
    assert all(loss.isfinite() for loss in losses.values())


def test_wrong_sizes_and_missing_targets_are_refused() -> None:
    model = MaskRCNN(tiny_config(), 1.0)
    with pytest.raises(ValueError, match="multiples of 8"):
        model(torch.zeros(1, 1, 32, 32, 30), [no_lesion()])
    with pytest.raises(ValueError, match="training needs targets"):
        model(torch.zeros(1, 1, SIDE, SIDE, SIDE))
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        model(torch.zeros(2, 1, SIDE, SIDE, SIDE), [no_lesion()])


def test_unknown_primary_trains_the_sum_of_both_classes() -> None:
    logits = torch.randn(2, 3)
    p = logits.softmax(dim=1)
    loss = whole(class_loss(logits, torch.tensor([METASTASIS, OTHER])))
    expected = -((p[0, 1] + p[0, 2]).log() + p[1, 2].log()) / 2
    torch.testing.assert_close(loss, expected)
    assert whole(class_loss(logits[:0], torch.zeros(0, dtype=torch.long))).item() == 0


def test_losses_of_a_perfect_mask_are_zero() -> None:
    truth = (torch.rand(3, 8, 8, 8) > 0.5).float()
    for loss in mask_losses((truth - 0.5) * 100, truth).values():
        assert whole(loss).item() == pytest.approx(0, abs=1e-4)


def test_no_mask_has_no_loss() -> None:
    nothing = torch.zeros(0, 8, 8, 8)
    assert [whole(loss).item() for loss in mask_losses(nothing, nothing).values()] == [0, 0]


def test_mask_losses_are_means_over_masks() -> None:
    logits, truth = torch.randn(2, 4, 4, 4), torch.rand(2, 4, 4, 4)
    together, alone = (
        losses_over_processes(mask_losses(logits, truth)),
        [losses_over_processes(mask_losses(logits[i : i + 1], truth[i : i + 1])) for i in range(2)],
    )
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)
    expected = F.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(together["mask"], expected)


def test_segmentation_does_not_count_lesions_without_a_mask() -> None:
    _, target = sphere_image(1)
    boxed = Targets(
        target.boxes, target.labels, torch.zeros_like(target.instances),
        torch.tensor([0]), target.ignore_boxes, target.attributes,
    )  # fmt: skip
    logits = torch.full((1, SIDE, SIDE, SIDE), -20.0)
    z1, y1, x1, z2, y2, x2 = target.boxes[0].int().tolist()
    logits[0, z1:z2, y1:y2, x1:x2] = 20.0
    assert whole(segmentation_loss(logits, [boxed])).item() == pytest.approx(0, abs=1e-4)
    assert whole(segmentation_loss(logits, [no_lesion()])).item() > 0.1


def test_levels_follow_the_size_of_a_bin() -> None:
    regions = torch.tensor([[0.0] * 3 + [side] * 3 for side in (7.0, 28.0, 56.0, 400.0)])
    assert assign_levels(regions, 7, [4, 8, 16]).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(("image_crop", "weight"), [(True, 1.0), (True, 0.0), (False, 1.0)])
def test_what_regions_are_cropped_from_lies_channels_last(image_crop: bool, weight: float) -> None:
    """As ``roi_align`` reads it, so that it copies nothing."""
    config = Config().updated(
        {"model.mask_head.image_crop": image_crop, "model.losses.segmentation": weight}
    )
    branch = SegmentationBranch(config.model)
    finest = torch.randn(2, config.model.neck.channels, 3, 4, 5)
    images = torch.randn(2, 1, 12, 16, 20)
    crops, _ = branch(finest, images, None)
    assert crops.movedim(1, -1).is_contiguous()
    parts = [images] if image_crop else []
    if branch.logits is not None:
        parts.append(depth_to_space(branch.logits(finest), 4))
    torch.testing.assert_close(crops, torch.cat(parts, dim=1))
