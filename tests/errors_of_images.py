"""Mistakes with pictures and their backbones, as in errors_corpus.py."""

from collections.abc import Callable
from pathlib import Path

from errors_corpus import Wrong, save
from PIL import Image

CONFIG = """
model:
  class_path: lt_cli.tasks.classification.Classification
  init_args:
    backbone:
      class_path: lt_cli.backbones.resnet.ResNet
      init_args: {widths: [4], blocks: [1]}
    schedule: null
data:
  class_path: lt_cli.data.labeled_images.LabeledImages
  init_args:
    source:
      class_path: lt_cli.data.image_rows.ClassFolders
      init_args: {path: pets}
    size: [8, 8]
trainer: {max_steps: 2, accelerator: cpu}
"""
PARTS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, width, 3)

    def forward(self, pictures):
        return self.layer(pictures)


class Flat(Net):
    def forward(self, pictures):
        return self.layer(pictures).flatten()
"""
FIT = ["fit", "--config=pets.yaml"]
MODULE = [*FIT, "--model.backbone=lt_cli.backbones.module.ModuleBackbone"]
TABLE = [*FIT, "--data.source=lt_cli.data.row_sources.TableFiles", "--data.source.path=pets.csv"]
TORCHVISION = [*FIT, "--model.backbone=lt_cli.backbones.torchvision_models.TorchvisionBackbone"]
DIGITS = ["--data.source=lt_cli.data.images.Digits", "--data.palette.num_colors=4"]


def pets(*more: str, without: str = "") -> Callable[[], object]:
    """The configuration, ten cats, ten dogs, and files that are no pictures or whatever else."""

    def make() -> None:
        save("pets.yaml", CONFIG)()
        save("parts.py", PARTS)()
        for i in range(20):
            path = Path("pets", ("cat", "dog")[i % 2], f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            if not str(path).startswith(without or "/"):
                Image.new("RGB", (9, 7), (i, 0, 0)).save(path)
        for place in more:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_bytes(b"no picture")

    return make


def table(*lines: str, header: str = "image,label") -> Callable[[], object]:
    """The pets as a table, and other lines."""

    def make() -> None:
        pets()()
        good = [f"pets/{('cat', 'dog')[i % 2]}/{i}.png,{('cat', 'dog')[i % 2]}" for i in range(20)]
        save("pets.csv", "\n".join([header, *good, *lines, ""]))()

    return make


def splits(val: str = "cat") -> Callable[[], object]:
    """Folders of splits."""

    def make() -> None:
        pets()()
        for place in ("all/train/cat", "all/train/dog", f"all/val/{val}"):
            Path(place).mkdir(parents=True)
            Image.new("RGB", (9, 7)).save(f"{place}/a.png")

    return make


IMAGE_CORPUS = [
    Wrong(
        [*FIT, "--data.source.path=none"],
        "source.path (none) must be a folder of pictures, and there is none: correct the path",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--data.source.path=pets/cat"], "pets/cat must have a folder for each class, with its …", before=pets()
    ),
    Wrong(FIT, "pets/cat has no picture (.avif .bmp .gif .jpeg …", before=pets(without="pets/cat")),
    Wrong(
        FIT,
        "pets/dog/x.png is no readable picture (cannot identify image file): mend or remove it",
        before=pets("pets/dog/x.png"),
    ),
    Wrong(
        [*FIT, "--data.num_workers=1"],
        "pets/dog/x.png is no readable picture (cannot identify image file): mend or remove it",
        before=pets("pets/dog/x.png"),
    ),
    Wrong(
        FIT,
        "pets must have class folders only, or folders of splits, and has the picture x.png beside cat/: move it into "
        "the folder of its class",
        before=pets("pets/x.png"),
    ),
    Wrong(
        [*FIT, "--data.source.path=all"],
        "all/val/fox/a.png: label 'fox' is not among the classes of the training rows, cat, dog: mend it, train with "
        "rows of it, or, where chance holds rows out, use another --data.split_seed",
        before=splits("fox"),
    ),
    Wrong(
        [*FIT, "--data.source.path=all", "--data.val_fraction=0.2"],
        "val_fraction (0.2) has no use, as the source has val rows: set --data.val_fraction=null",
        before=splits(),
    ),
    Wrong(
        [*FIT, "--data.size=[0,8]"],
        "size [0, 8] must be a height and a width of at least 1 pixel",
        before=pets(),
    ),
    Wrong([*FIT, "--data.size=8"], "--data.size: expected tuple, got 8", before=pets()),
    Wrong([*FIT, "--data.mixup=-1"], "mixup (-1.0) must be above 0, or 0 for none", before=pets()),
    Wrong(
        [*FIT, "--data.cutmix=1", "--data.labels=lt_cli.data.labels.SeveralLabels"],
        "cutmix (1.0) must be 0 with SeveralLabels: it mixes two classes",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--data.size=null"],
        "Classification needs pictures of one size, and ResNet says none: add --data.size=[32,32]",
        before=pets(),
    ),
    Wrong(
        [*FIT, '--data.train_transforms=[{"class_path": "torchvision.transforms.v2.RandomFlop"}]'],
        "--data.train_transforms: there is no RandomFlop in torchvision.transforms.v2…",
        before=pets(),
    ),
    Wrong(
        [*FIT, '--data.train_transforms=[{"class_path": "torchvision.transforms.v2.Grayscale"}]'],
        "the transforms of pictures must make a tensor (3, H, W), not (1, 7, 9): leave out the last",
        before=pets(),
    ),
    Wrong(
        TABLE,
        "pets.csv:22: image (none.png) must be a file, and there is none in …",
        before=table("none.png,cat"),
    ),
    Wrong(TABLE, "pets.csv:2 has no column 'image', only file, label…", before=table(header="file,label")),
    Wrong(TABLE, "pets.csv:22 has 1 columns, the header 2: label is missing", before=table("pets/cat/0.png")),
    Wrong(TABLE, "pets.csv:22 has no label: give it one, or leave the row out", before=table("pets/cat/0.png,")),
    Wrong(
        [*MODULE, "--model.backbone.module=parts.Net", "--data.size=[2,2]"],
        "ModuleBackbone does not take the data's rows of shape (3, 2, 2): …",
        before=pets(),
    ),
    Wrong(
        [*MODULE, "--model.backbone.module=parts.Flat"],
        "ModuleBackbone must make a feature (1, embed_dim) of a row, not (144,): pool and flatten it",
        before=pets(),
    ),
    Wrong(
        [*MODULE, "--model.backbone.module=parts.Nat"],
        "--model.backbone.module: there is no Nat in parts…",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--model.backbone=parts.Net"],
        "--model.backbone: parts.Net is no PooledBackbone…",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--model.backbone=lt_cli.backbones.gpt.GPT"],
        "--model.backbone: lt_cli.backbones.gpt.GPT is no …",
        before=pets(),
    ),
    Wrong(
        [*TORCHVISION, "--model.backbone.name=resnet81"],
        "name ('resnet81') …",
        before=pets(),
    ),
    Wrong(
        [*TORCHVISION, "--model.backbone.name=resnet18", "--model.backbone.weights=none.pth"],
        "weights ('none.pth') …",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--model.loss=torch.nn.MultiMarginLoss", "--model.label_smoothing=0.1"],
        "label_smoothing (0.1) and class_weights (None) have no use beside a loss of one's own: give "
        "them to that, or leave it out",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--model.backbone_lr_scale=2"],
        "backbone_lr_scale (2.0) must be above 0 and at most 1, which keeps one rate: "
        "--freeze.modules=backbone keeps the backbone as it is",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--model.outputs=[labels]"], "--model.outputs: expected one of 'label', 'label_index', …", before=pets()
    ),
    Wrong(
        [*FIT, "--freeze.modules=backbone.stage"],
        "freeze.modules: 'backbone.stage' matches no module or parameter of Classification: did you mean …",
        before=pets(),
    ),
    Wrong(
        [*FIT, "--data=lt_cli.data.pixels.PixelData", "--data.palette=lt_cli.data.palette.GreyLevels", *DIGITS],
        "Classification needs data of pictures or tables with labels, such as …",
        before=pets(),
    ),
]
