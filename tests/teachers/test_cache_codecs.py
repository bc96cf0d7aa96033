"""The forms that answers are kept in: what comes back, how many bytes, how far from dense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.errors import CacheError
from limbeck.functional import kl_divergence, kl_sparse
from limbeck.taps.outputs import Outputs
from limbeck.teachers.cache import Codec
from limbeck.teachers.cache.bits import bits_for, pack, unpack
from limbeck.teachers.cache.budget import as_bytes
from limbeck.teachers.cache.codec import as_codec
from limbeck.teachers.cache.forms import decode, encode, join, ready, sizes_of
from limbeck.teachers.cache.measure import measure
from limbeck.teachers.cache.sparse import most_bytes

VOCABULARY = 151_936


def through(outputs: Outputs | Tensor, codec: Codec, *, view: int = 0, piece: int = 64) -> Outputs:
    """Encode in pieces of ``piece`` rows, join, decode every row."""
    outputs = Outputs(outputs) if isinstance(outputs, Tensor) else outputs
    rows, classes = len(outputs.logits), outputs.logits.shape[-1]
    index = torch.arange(rows)
    blocks = [
        encode(outputs.map(lambda t, i=i: t[i : i + piece]), codec, index[i : i + piece], view)
        for i in range(0, rows, piece)
    ]
    block = ready(join(blocks), codec, classes)
    return decode(block, index, codec, classes=classes, piece=piece, taps=None)


@pytest.mark.parametrize("width", [1, 7, 18, 25, 41])
def test_rows_of_numbers_come_back_from_their_bits(width: int) -> None:
    rng = np.random.default_rng(width)
    lengths = rng.integers(0, 9, 50)
    codes = rng.integers(0, 2**width, (50, 9))
    packed = pack(codes, lengths, width)
    sizes = (lengths * width + 7) // 8
    assert len(packed) == sizes.sum()
    starts = np.concatenate([[0], sizes.cumsum()[:-1]])
    chosen = rng.permutation(50)[:20]
    back = unpack(packed, starts[chosen], lengths[chosen], width)
    for row, found in zip(chosen, back, strict=True):
        assert found[: lengths[row]].tolist() == codes[row, : lengths[row]].tolist()
        assert not found[lengths[row] :].any()


def test_float32_comes_back_bit_for_bit_and_float16_rounded() -> None:
    logits = torch.randn(50, 7) * 20
    assert torch.equal(through(logits, Codec()).logits, logits)
    assert torch.equal(through(logits.double(), Codec()).logits, logits.double())
    half = through(logits, Codec(name="float16"))
    assert torch.equal(half.logits, logits.half().float())
    huge = through(torch.tensor([[1e6, -1e6]]), Codec(name="float16")).logits
    assert torch.isfinite(huge).all()


@pytest.mark.parametrize("classes", [5, 300, 40_000])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_top_k_has_the_largest_classes_and_the_exact_tail(classes: int, temperature: float) -> None:
    logits = torch.randn(9, classes) * 3
    codec = Codec(name="topk", k=4, temperature=temperature)
    kept = through(logits, codec, piece=4).sparse
    assert kept is not None
    p = (logits.double() / temperature).softmax(-1)
    top = p.topk(4, dim=-1)
    assert torch.equal(kept.ids, top.indices)
    tail = 1 - top.values.sum(-1)
    torch.testing.assert_close(kept.log_tail.double().exp(), tail, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(kept.log_probs.double().exp(), top.values, rtol=2e-2, atol=1e-6)
    total = kept.log_probs.double().exp().sum(-1) + kept.log_tail.double().exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=0)


def test_top_k_of_all_classes_has_no_tail() -> None:
    logits = torch.randn(3, 4)
    kept = through(logits, Codec(name="topk", k=9)).sparse
    assert kept.ids.shape == (3, 4)
    assert (kept.log_tail == -torch.inf).all()
    value = kl_sparse(logits, kept.ids, kept.log_probs, kept.log_tail)
    assert 0 <= value < 1e-5


def test_a_sample_depends_on_seed_view_and_sample_alone() -> None:
    logits = torch.randn(40, 300)
    codec = Codec(name="sampled", rounds=20)
    kept = through(logits, codec, piece=40).sparse
    probs = kept.log_probs.exp()
    counts = probs * 20
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-4)
    torch.testing.assert_close(probs.sum(-1), torch.ones(40))
    for row, ids in enumerate(kept.ids):
        used = ids[probs[row] > 0].tolist()
        assert used == sorted(set(used))
    again = through(logits, codec, piece=7).sparse
    assert torch.equal(again.ids, kept.ids)
    assert torch.equal(again.log_probs, kept.log_probs)
    for other in (
        through(logits, Codec(name="sampled", rounds=20, seed=1)),
        through(logits, codec, view=1),
    ):
        assert not torch.equal(other.sparse.log_probs.exp().sum(0), probs.sum(0))


def test_the_mean_of_samples_is_the_distribution_and_its_gradient_the_dense_one() -> None:
    """10,000 draws through the store: within four standard errors, and the stated variance."""
    draws, rounds, classes = 10_000, 5, 30
    teacher, student = torch.randn(1, classes) * 2, torch.randn(1, classes)
    codec = Codec(name="sampled", rounds=rounds)
    kept = through(teacher.expand(draws, -1).contiguous(), codec, piece=2500).sparse
    one = student.double().expand(draws, -1).clone().requires_grad_()
    kl_sparse(one, kept.ids, kept.log_probs, reduction="sum").backward()
    dense = student.double().requires_grad_()
    kl_divergence(dense, teacher.double()).backward()
    p = teacher.double().softmax(-1)
    error = (p * (1 - p) / rounds / draws).sqrt()
    assert ((one.grad.mean(0) - dense.grad).abs() <= 4 * error).all()
    stated = measure(
        "classification",
        Outputs(teacher),
        Outputs(teacher[:, :0], sparse=kept.map(lambda t: t[:1])),
        codec,
    )
    assert float(one.grad.var(0).sum()) == pytest.approx(stated["variance"], rel=0.03)


def test_twelve_tokens_of_a_large_vocabulary_take_forty_bytes() -> None:
    """Distributions whose 50 draws have about 12 distinct classes, as the RS-KD paper has them."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(64, VOCABULARY, generator=rng)
    logits += torch.zeros_like(logits).scatter_(
        1, torch.randint(VOCABULARY, (64, 14), generator=rng), 14.6
    )
    codec = Codec(name="sampled", rounds=50)
    block = encode(Outputs(logits), codec, torch.arange(64), 0)
    distinct = block["lengths"].double().mean()
    assert 11.5 <= distinct <= 12.5
    assert sizes_of(block) / 64 <= 40
    assert most_bytes(Codec(name="sampled", rounds=12), VOCABULARY) <= 40
    assert bits_for(VOCABULARY) == 18
    kept = decode(
        ready(block, codec, VOCABULARY),
        torch.arange(64),
        codec,
        classes=VOCABULARY,
        piece=64,
        taps=None,
    ).sparse
    torch.testing.assert_close(kept.log_probs.exp().sum(-1), torch.ones(64))


def test_a_sequence_of_tokens_is_kept_position_by_position() -> None:
    logits = torch.randn(6, 3, 50)
    for codec in (Codec(name="sampled", rounds=9), Codec(name="topk", k=2)):
        kept = through(logits, codec, piece=4).sparse
        assert kept.ids.shape[:2] == (6, 3)
        assert kl_sparse(logits, kept.ids, kept.log_probs, kept.log_tail) >= 0
    first = through(logits, Codec(name="topk", k=1)).sparse
    assert torch.equal(first.ids[..., 0], logits.argmax(-1))


@pytest.mark.parametrize(("form", "error"), [("float32", 0), ("float16", 1e-3), ("int8", 1e-2)])
def test_features_and_maps(form: str, error: float) -> None:
    maps = torch.randn(10, 4, 3, 3) * torch.tensor([1e-3, 1.0, 50.0, 0.0]).view(1, 4, 1, 1)
    outputs = Outputs(
        torch.randn(10, 5),
        {"map": maps, "flat": torch.randn(10, 6)},
        {"att": torch.rand(10, 2, 4, 4)},
    )
    back = through(outputs, Codec(features=form), piece=4)  # type: ignore[arg-type]
    assert torch.equal(back.logits, outputs.logits)
    assert list(back.features) == ["map", "flat"]
    for name, value in {**outputs.features}.items():
        found = back.features[name]
        assert found.dtype == torch.float32
        scale = value.abs().amax(dim=[d for d in range(value.dim()) if d != 1], keepdim=True)
        assert ((found - value).abs() <= error * scale).all(), name
    assert (back.attentions["att"] - outputs.attentions["att"]).abs().max() <= error


@pytest.mark.parametrize("channels", [1, 2])
def test_a_loud_channel_of_tokens_does_not_silence_the_others(channels: int) -> None:
    tokens = torch.randn(12, 5, 7)
    tokens.select(channels, 2).mul_(300)
    outputs = Outputs(torch.zeros(12, 3), {"tokens": tokens})
    back = through(outputs, Codec(features="int8"), piece=4).features["tokens"]
    quiet = [c for c in range(tokens.shape[channels]) if c != 2]
    error = (back - tokens).index_select(channels, torch.tensor(quiet))
    assert error.abs().max() <= 4.5 / 127


def test_int8_has_no_place_for_infinity() -> None:
    outputs = Outputs(torch.zeros(2, 3), {"tap": torch.tensor([[1.0], [float("inf")]])})
    with pytest.raises(CacheError, match=r"tap has numbers that are not finite.*use float32"):
        through(outputs, Codec(features="int8"))


def test_the_measured_divergence_is_that_of_what_comes_back() -> None:
    logits = torch.randn(30, 12) * 4
    for name in ("float32", "float16"):
        codec = Codec(name=name)
        back = through(logits, codec)
        found = measure("classification", Outputs(logits), back, codec)
        rows = kl_divergence(back.logits.double(), logits.double(), reduction="none")
        assert found["kl"] == pytest.approx(float(rows.sum()), rel=1e-6, abs=1e-15)
        assert (found["kl"] == 0) == (name == "float32")
    codec = Codec(name="topk", k=3)
    kept = through(logits, codec)
    p, q = logits.double().softmax(-1), torch.zeros(30, 12, dtype=torch.float64)
    q += (kept.sparse.log_tail.double().exp() / 9)[:, None]
    q.scatter_(1, kept.sparse.ids, kept.sparse.log_probs.double().exp())
    expected = float((p * (p / q).log()).sum())
    assert measure("classification", Outputs(logits), kept, codec)["kl"] == pytest.approx(
        expected, rel=1e-5
    )
    rows = measure(
        "regression", Outputs(logits), through(logits, Codec(name="float16")), Codec(name="float16")
    )
    assert rows["kl"] == pytest.approx(
        float((logits.half().double() - logits).square().sum()), rel=1e-6
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("top", "did you mean 'topk'"),
        ({"name": "topk", "k": 0}, "codec.k: expected a whole number of at least 1, got 0"),
        ({"name": "topk", "kk": 1}, "did you mean 'k'"),
        ({"name": "sampled", "rounds": 0}, "codec.rounds: expected a whole number from 1"),
        ({"name": "sampled", "temperature": -1}, "codec.temperature: expected a number above 0"),
        ({"features": "int4"}, "did you mean 'int8'"),
    ],
)
def test_a_codec_that_makes_no_sense_is_refused(value: object, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        as_codec(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["lots", "-2GB", "2 QB", 0, True, 1.5])
def test_a_size_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(CacheError, match="expected bytes or a size such as '2GB'"):
        as_bytes(value)  # type: ignore[arg-type]
