"""The pretrained CIFAR-10 ResNets load strictly and are as good as they are said to be."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limbeck.models import build_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# file: (accuracy in percent, mean negative log-likelihood) on all 10,000 JPEG test images,
# measured apart from this code by whoever prepared the data
MEASURED = {
    "resnet20_cifar10": (81.03, 0.879),
    "resnet32_cifar10": (82.56, 0.923),
    "resnet44_cifar10": (82.67, 0.903),
    "resnet56_cifar10": (83.20, 0.942),
    "resnet20_cifar10jpeg_finetuned": (87.21, 0.428),
    "resnet56_cifar10jpeg_finetuned": (88.93, 0.371),
}


def load_pretrained(shared_data: Path, name: str):
    from safetensors.torch import load_file

    file = shared_data / "cifar10-resnets" / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file.name} in the data folder")
    model = build_model(name.split("_")[0], num_classes=10, input_shape=(3, 32, 32))
    model.load_state_dict(load_file(file), strict=True)
    return model.eval()


def read_test_images(shared_data: Path, count: int):
    from PIL import Image

    file = shared_data / "cifar10-jpeg" / "cifar10_jpeg.npz"
    if not file.is_file():
        pytest.skip(f"no {file.name} in the data folder")
    with np.load(file, allow_pickle=False) as archive:
        data, offsets = archive["test_jpeg"], archive["test_offsets"]
        labels = archive["test_labels"]
    # The file is grouped by class.
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    images = [
        np.asarray(Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())))
        for i in chosen
    ]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    pixels = (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    return pixels, torch.from_numpy(labels[chosen].astype(np.int64))


@torch.no_grad()
def measure(model, images, labels):
    logits = torch.cat([model(part) for part in images.split(250)])
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
    return 100 * accuracy, F.cross_entropy(logits, labels).item()


@pytest.mark.parametrize("name", MEASURED)
def test_weights_load_strictly(shared_data, name):
    model = load_pretrained(shared_data, name)
    assert sum(p.numel() for p in model.parameters()) in {269_722, 464_154, 658_586, 853_018}


def test_finetuned_resnet20_on_a_thousand_images(shared_data):
    images, labels = read_test_images(shared_data, 1000)
    model = load_pretrained(shared_data, "resnet20_cifar10jpeg_finetuned")
    accuracy, nll = measure(model, images, labels)
    expected, expected_nll = MEASURED["resnet20_cifar10jpeg_finetuned"]
    # Two standard errors of a proportion on 1,000 of the 10,000 images it was measured on.
    share = expected / 100
    band = 2 * 100 * math.sqrt(share * (1 - share) / 1000 * 0.9)
    assert abs(accuracy - expected) < band
    assert abs(nll - expected_nll) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_all_ten_thousand_images(shared_data, name):
    images, labels = read_test_images(shared_data, 10_000)
    accuracy, nll = measure(load_pretrained(shared_data, name), images, labels)
    expected, expected_nll = MEASURED[name]
    print(f"{name}: accuracy {accuracy:.2f} %, nll {nll:.4f}")
    assert accuracy == pytest.approx(expected, abs=0.02)  # two images: decoders may differ
    assert nll == pytest.approx(expected_nll, abs=0.002)
