"""The hierarchical generator: what each knob does."""

import pytest
import torch

from limbeck.data import load_data
from limbeck.data.sources.hierarchy import class_directions, class_scores
from limbeck.errors import RecipeError
from limbeck.functional import class_hierarchy


def directions(similarity=0.6, superclasses=3, classes=4, dim=20):
    rng = torch.Generator().manual_seed(1)
    return class_directions(superclasses, classes, similarity, dim, rng)


def arrays(**options):
    data = load_data("hierarchy", **options)
    train = data.splits["train"]
    return data, *train.samples.fetch(torch.arange(len(train.samples)))


@pytest.mark.parametrize("similarity", [0.0, 0.6, 0.99])
def test_cosines_are_the_similarity_within_and_zero_across(similarity):
    found = directions(similarity)
    cosine = found @ found.T
    for i in range(12):
        for j in range(12):
            expected = 1.0 if i == j else similarity if i // 4 == j // 4 else 0.0
            assert float(cosine[i, j]) == pytest.approx(expected, abs=1e-9)


def test_scores_by_a_plain_loop():
    rng = torch.Generator().manual_seed(3)
    rates = (1 + 3 * torch.rand(2, generator=rng, dtype=torch.float64)).tolist()
    phases = (2 * torch.pi * torch.rand(2, generator=rng, dtype=torch.float64)).tolist()
    projections = torch.randn(5, 3, dtype=torch.float64)
    found = class_scores(projections, 0.3, 2, torch.Generator().manual_seed(3))
    for value, score in zip(projections.flatten().tolist(), found.flatten().tolist(), strict=True):
        sines = [
            torch.sin(torch.tensor(r * value + p, dtype=torch.float64))
            for r, p in zip(rates, phases, strict=True)
        ]
        assert score == pytest.approx(value + 0.3 * float(sum(sines)))  # sqrt(2 / 2) is 1


def test_without_sines_and_noise_a_linear_map_is_right_everywhere():
    options = {"superclasses": 3, "classes": 4, "dim": 20, "similarity": 0.6}
    _, inputs, labels = arrays(**options, difficulty=0, noise=0, data_seed=1, samples=500)
    assert bool(((inputs.double() @ directions().T).argmax(1) == labels).float().mean() > 0.99)


def test_more_alike_classes_are_taken_for_each_other_within_their_superclass():
    """Noise of fixed size moves labels more often to a sibling where siblings are alike."""
    shares = []
    for similarity in (0.0, 0.9):
        same = {"similarity": similarity, "difficulty": 0, "samples": 4000}
        data, _, clean = arrays(**same, noise=0)
        _, _, noisy = arrays(**same, noise=0.5)
        groups = data.superclasses["group"]
        moved = clean != noisy
        shares.append(float((groups[clean] == groups[noisy])[moved].float().mean()))
    assert shares[0] < 0.35
    assert shares[1] > shares[0] + 0.3


def test_a_bundle_with_its_hierarchy():
    data = load_data("hierarchy", samples=400)
    assert (data.task, data.num_classes, data.input_shape) == ("classification", 20, (32,))
    assert data.superclasses["group"].tolist() == [k // 4 for k in range(20)]
    assert class_hierarchy(data.superclasses["group"]).shape == (20, 20)
    again = load_data("hierarchy", samples=400)
    assert data.fingerprint() == again.fingerprint()
    assert data.fingerprint() != load_data("hierarchy", samples=400, data_seed=1).fingerprint()
    other_cut = load_data("hierarchy", samples=400, seed=1)
    assert torch.equal(other_cut.splits["test"].indices, data.splits["test"].indices)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"similarity": 1.0}, r"similarity: expected a number in \[0, 1\), got 1.0"),
        ({"dim": 24}, r"dim: expected at least 25, superclasses \* \(classes \+ 1\), got 24"),
        ({"superclasses": 0}, "superclasses: expected a number of at least 1"),
        ({"superclasses": 1, "classes": 1}, "two classes in all"),
        ({"difficulty": -1}, "difficulty: expected"),
        ({"noise": -0.1}, "noise: expected"),
        ({"sines": 0}, "sines: expected"),
        ({"samples": 5}, "samples: expected"),
        ({"classes": 0}, "classes: expected"),
    ],
)
def test_refusals(options, line):
    with pytest.raises(RecipeError, match=line):
        load_data("hierarchy", **options)
