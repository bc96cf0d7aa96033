"""Independent references: written from the equations, with loops and Python floats (or mpmath)."""

import math

import mpmath
from torch import Tensor

mpmath.mp.dps = 60


def exact_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> list[float]:
    """T² KL(teacher ‖ student) per row, in 60 digits from the numbers as they are stored."""
    return [
        float(_kl_row(s, t, mpmath.mpf(temperature)))
        for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    ]


def _kl_row(student: list[float], teacher: list[float], temperature) -> mpmath.mpf:
    p, q = _softmax(teacher, temperature), _softmax(student, temperature)
    total = mpmath.mpf(0)
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * (mpmath.log(a) - mpmath.log(b))
    return temperature**2 * total


def _softmax(logits: list[float], temperature) -> list:
    weights = [
        mpmath.mpf(0) if z == -math.inf else mpmath.exp(mpmath.mpf(z) / temperature) for z in logits
    ]
    return [weight / mpmath.fsum(weights) for weight in weights]


def naive_softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    return [weight / math.fsum(weights) for weight in weights]


def naive_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> list[float]:
    """T² KL(teacher ‖ student) per row in float64, by the definition."""
    rows = []
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p, q = naive_softmax(t, temperature), naive_softmax(s, temperature)
        kl = math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)
        rows.append(temperature**2 * kl)
    return rows


def naive_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> float:
    """Mean over labelled rows of -sum_k y_k log q_k, y = (1-ε) onehot + ε/C."""
    losses = []
    for row, target in zip(logits.double().tolist(), targets.tolist(), strict=True):
        if target == -100:
            continue
        q = naive_softmax(row)
        y = [smoothing / len(q) + (1 - smoothing) * (k == target) for k in range(len(q))]
        losses.append(-math.fsum(a * math.log(b) for a, b in zip(y, q, strict=True)))
    return math.fsum(losses) / len(losses)


def naive_cosine(first: Tensor, second: Tensor) -> float:
    a, b = first.double().flatten().tolist(), second.double().flatten().tolist()
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def naive_ece(probs: Tensor, targets: Tensor, num_bins: int) -> tuple[float, float]:
    """(over-confident part, under-confident part), by visiting every bin (low, high]."""
    over = under = 0.0
    rows, labels = probs.double().tolist(), targets.tolist()
    for m in range(num_bins):
        low, high = m / num_bins, (m + 1) / num_bins
        inside = [
            (row, y)
            for row, y in zip(rows, labels, strict=True)
            if low < max(row) <= high or (m == 0 and max(row) == 0)
        ]
        if inside:
            confidence = sum(max(row) for row, _ in inside) / len(inside)
            accuracy = sum(row.index(max(row)) == y for row, y in inside) / len(inside)
            over += len(inside) / len(rows) * max(confidence - accuracy, 0)
            under += len(inside) / len(rows) * max(accuracy - confidence, 0)
    return over, under


def naive_equal_mass_gaps(values: list[float], hits: list[bool], num_bins: int):
    """(size, |accuracy - confidence|) of equal-mass bins, for values that are all different."""
    pairs = sorted(zip(values, hits, strict=True))
    num_bins = min(num_bins, len(pairs))
    size, rest = divmod(len(pairs), num_bins)
    gaps, start = [], 0
    for m in range(num_bins):
        stop = start + size + (m < rest)
        part = pairs[start:stop]
        confidence = sum(value for value, _ in part) / len(part)
        gaps.append((len(part), abs(sum(hit for _, hit in part) / len(part) - confidence)))
        start = stop
    return gaps
