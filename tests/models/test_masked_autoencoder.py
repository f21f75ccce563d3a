"""Hidden voxels never enter, visible ones count as in a sparse network, hidden ones are guessed."""

import pytest
import torch
from torch import Tensor

from osteomet.config import Config
from osteomet.errors import ConfigError
from osteomet.models.backbones import build_backbone
from osteomet.models.layers import DepthwiseConv3d
from osteomet.models.masked_autoencoder import MaskedAutoencoder, encode_visible

NAMES = ["convnext_atto", "convnextv2_atto"]
SIDE = 32


def config(name: str = "convnextv2_atto", **settings: object) -> Config:
    content = {
        "model.backbone.name": name,
        "model.backbone.dims": [8, 12, 16],
        "model.backbone.depths": [1, 2, 1],
        "model.neck.levels": [2, 3],
        "model.anchors.sizes_mm": [[8.0], [16.0]],
        "pretraining.decoder_channels": 8,
    }
    return Config().updated({**content, **settings})


def network(name: str, **settings: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = MaskedAutoencoder(config(name, **settings))
    for key, value in model.named_parameters():
        if "grn" in key:  # at 0 it is the identity
            torch.nn.init.normal_(value)
    return model


def repeated(visible: Tensor, factor: int) -> Tensor:
    for axis in (2, 3, 4):
        visible = visible.repeat_interleave(factor, dim=axis)
    return visible


@pytest.mark.parametrize("name", NAMES)
def test_what_is_hidden_never_enters(name: str) -> None:
    model, images = network(name), torch.randn(2, 1, SIDE, SIDE, SIDE)
    visible = model.draw_visible(images)
    other = torch.where(
        repeated(visible, model.multiple_of), images, 100 * torch.randn_like(images)
    )
    features = model.encode(images, visible)
    assert torch.equal(model.encode(other, visible), features)
    assert not features[~visible.expand_as(features)].any()
    assert features[visible.expand_as(features)].abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_all_visible_is_the_backbone_itself(name: str) -> None:
    backbone = build_backbone(config(name).model.backbone, 3).eval()
    images = torch.randn(1, 1, SIDE, SIDE, SIDE)
    every = torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(encode_visible(backbone, images, every), backbone(images)[3])


@pytest.mark.parametrize("name", NAMES)
def test_cells_alone_are_computed_as_if_nothing_was_around(name: str) -> None:
    """The oracle of sparseness: where kernels reach no neighbour, a lone cube is an image alone."""
    backbone = build_backbone(config(name).model.backbone, 3).eval()
    for layer in backbone.modules():
        if isinstance(layer, DepthwiseConv3d):
            layer.weight.data *= 0
            layer.weight.data[:, :, 3, 3, 3] = 1.0
    images = torch.randn(1, 1, SIDE, SIDE, SIDE)
    visible = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    visible[0, 0, 1, 2, 3] = True
    together = encode_visible(backbone, images, visible)[0, :, 1, 2, 3]
    alone = backbone(images[:, :, 8:16, 16:24, 24:32])[3][0, :, 0, 0, 0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_neighbours_that_are_hidden_count_as_zeros() -> None:
    """A backbone of one block, against its layers written out over the visible cells."""
    settings = {"model.backbone.dims": [8], "model.backbone.depths": [1]}
    model = network("convnextv2_atto", **settings)
    images = torch.randn(1, 1, 16, 16, 16)
    visible = model.draw_visible(images)
    (entry,), ((block,),) = model.backbone.entries, model.backbone.stages
    x = entry(images) * visible
    seen = visible[0, 0]
    rows = block.depthwise(x)[0].movedim(0, -1)[seen]
    rows = torch.nn.functional.gelu(block.expand(block.norm(rows)))
    energy = rows.square().sum(dim=0).sqrt()
    share = energy / (energy.mean() + 1e-6)
    rows = block.project(block.grn.gamma * (rows * share) + block.grn.beta + rows)
    expected = x[0].movedim(0, -1)[seen] + rows
    features = model.encode(images, visible)
    torch.testing.assert_close(features[0].movedim(0, -1)[seen], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("ratio", "hidden"), [(0.6, 38), (0.999, 63), (0.001, 1)])
def test_share_that_is_hidden(ratio: float, hidden: int) -> None:
    model = network("convnext_atto", **{"pretraining.mask_ratio": ratio})
    visible = model.draw_visible(torch.zeros(3, 1, SIDE, SIDE, SIDE))
    assert (~visible).flatten(1).sum(dim=1).tolist() == [hidden] * 3
    assert not torch.equal(visible[0], visible[1])


@pytest.mark.parametrize("normalise", [True, False])
def test_loss_is_that_of_hidden_voxels(normalise: bool) -> None:
    """Cube by cube, by loops."""
    model = network("convnextv2_atto", **{"pretraining.normalise_targets": normalise})
    images = 3 + torch.randn(2, 1, SIDE, SIDE, SIDE)
    torch.manual_seed(1)
    loss = model(images)["reconstruction"]
    torch.manual_seed(1)
    made = model.reconstruct(images)
    errors = []
    for image, predicted, seen in zip(
        images[:, 0], made.predicted[:, 0], made.visible[:, 0], strict=True
    ):
        for z in range(0, SIDE, 8):
            for y in range(0, SIDE, 8):
                for x in range(0, SIDE, 8):
                    place = (slice(z, z + 8), slice(y, y + 8), slice(x, x + 8))
                    assert seen[place].all() or not seen[place].any()
                    if seen[z, y, x]:
                        assert torch.equal(predicted[place], image[place])
                        continue
                    scale = image[place].var() + 1e-6 if normalise else 1.0
                    errors.append((predicted[place] - image[place]).square().mean() / scale)
    torch.testing.assert_close(loss, torch.stack(errors).mean(), atol=1e-4, rtol=1e-4)


def test_cubes_without_contrast_train() -> None:
    model = network("convnextv2_atto")
    loss = model(torch.full((1, 1, SIDE, SIDE, SIDE), -2.0))["reconstruction"]
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_it_learns_what_a_neighbour_tells() -> None:
    """Each image is of one grey, so that the visible cubes tell what is hidden."""
    small = {"model.backbone.dims": [8, 12], "model.backbone.depths": [1, 1]}
    model = network("convnextv2_atto", **{"pretraining.normalise_targets": False, **small})
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images = torch.linspace(-1.5, 1.5, 4)[:, None, None, None, None].expand(-1, 1, 16, 16, 16)
    losses = []
    for step in range(80):
        torch.manual_seed(step)
        loss = model(images.contiguous())["reconstruction"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # without a look at the image nothing is below the variance of all greys
    assert sum(losses[-10:]) / 10 < 0.5 * images.square().mean()


@pytest.mark.parametrize("name", ["resnet18", "yolov8n"])
def test_other_families_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}; pretraining .* convnextv2 backbone"):
        MaskedAutoencoder(Config().updated({"model.backbone.name": name}))
