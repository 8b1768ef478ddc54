"""A picture and a page, with nothing but what `pip install captum-sgcampp` brings.

A script: CI runs it where the wheel alone is installed, `test_dependencies.py` where other packages cannot be imported.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from captum_sgcampp import explain, list_layers


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    image = torch.rand(1, 3, 16, 16)
    layer = list_layers(model, image)[0].name
    explanation = explain(model, image, layer, photograph=image[0].permute(1, 2, 0).numpy(), n_samples=2, stdevs=0.1)
    with TemporaryDirectory() as folder:
        explanation.picture().savefig(Path(folder, "picture.png"))
        explanation.save_page(Path(folder, "page.html"))
        assert all(file.stat().st_size for file in Path(folder).iterdir())


if __name__ == "__main__":
    main()
