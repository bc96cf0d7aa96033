"""Backward-KD's demonstration: two polynomials agree on eight points, and part between them.

Jafari et al. (2301.12006): a teacher of degree 20, a student of degree 15, and 8 training points.
Copies of the points climb to where the two differ most; trained there too, the student follows the
teacher between the points. Writes polynomial.svg.
"""

import matplotlib.pyplot as plt
import torch

from limbeck.functional import ascend

torch.manual_seed(2)
torch.set_default_dtype(torch.float64)
DENSE = torch.linspace(-1, 1, 500)[:, None]


def powers(x, degree):
    """The Chebyshev polynomials at x, up to the degree."""
    found = [torch.ones_like(x), x]
    while len(found) <= degree:
        found.append(2 * x * found[-1] - found[-2])
    return torch.cat(found[: degree + 1], dim=1)


truth = torch.randn(21, 1) * 0.8 ** torch.arange(21)[:, None]


def teacher(x):
    return powers(x, 20) @ truth


def fit(points):
    """The student of degree 15 closest to the teacher on the points; of many, the smallest."""
    weights = torch.linalg.pinv(powers(points, 15), rtol=1e-6) @ teacher(points)
    return lambda x: powers(x, 15) @ weights


points = torch.linspace(-0.95, 0.95, 8)[:, None]
student = before = fit(points)
auxiliary = points[:0]
for _ in range(3):  # with few samples, the copies of all rounds stay

    def gap(x, student=student):
        return (student(x) - teacher(x)).square().sum(dim=1)

    moved = points + 0.02 * torch.randn(points.shape)  # on the points themselves there is no slope
    for _ in range(20):  # kept within: outside, polynomials know no bounds
        moved = ascend(moved, gap, rate=5e-4, steps=1).clamp(-1, 1)
    auxiliary = torch.cat([auxiliary, moved])
    student = fit(torch.cat([points, auxiliary]))

worst = [float((one(DENSE) - teacher(DENSE)).abs().max()) for one in (before, student)]
print(f"largest distance to the teacher: {worst[0]:.3f} on 8 points, {worst[1]:.3f} with copies")

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for axis, one, title in zip(axes, (before, student), ("8 points", "and their copies"), strict=True):
    axis.plot(DENSE, teacher(DENSE), color="0.6", lw=3, label="teacher, degree 20")
    axis.plot(DENSE, one(DENSE), color="tab:red", label="student, degree 15")
    axis.plot(points, teacher(points), "ko", label="given")
    axis.set_title(title)
axes[1].plot(auxiliary, teacher(auxiliary), "b.", label="moved")
axes[1].legend(fontsize=8)
figure.savefig("polynomial.svg")
