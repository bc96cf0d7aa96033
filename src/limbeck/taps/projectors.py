"""Small learned maps that carry a student's features into a teacher's space."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from limbeck.errors import ShapeError, unknown

KINDS = ("auto", "identity", "linear", "conv1x1", "conv3x3", "regressor")


def make_projector(
    kind: str,
    student_shape: Sequence[int],
    teacher_shape: Sequence[int],
    *,
    norm: bool | None = None,
    activation: bool | None = None,
    names: tuple[str, str] = ("student", "teacher"),
) -> nn.Module:
    """Return a module from student features to the teacher's shape.

    Args:
        kind: one of

            - "linear": vectors ``[batch, dim]``, or tokens ``[batch, tokens, dim]`` of equal count;
            - "conv1x1", "conv3x3": maps ``[batch, channels, height, width]`` of equal size;
            - "regressor": maps of any size that fits, FitNets' (Romero et al. 2015) as the
              literature's code has it: 3x3 stride 2 where the student's map is twice as large,
              transposed 4x4 stride 2 where half as large, else an unpadded convolution of kernel
              ``1 + student size - teacher size``; then batch norm and ReLU;
            - "identity": equal shapes;
            - "auto": linear, conv1x1 or the regressor's convolution, the first that fits.
        student_shape: shape of the student's features, batch dimension first.
        teacher_shape: shape of the teacher's.
        norm: batch norm (layer norm on tokens) behind the map; None means yes for "regressor",
            no otherwise.
        activation: ReLU behind it; None as for ``norm``.
        names: taps for error messages.

    Raises ShapeError, naming taps and shapes, where nothing fits.
    """
    if kind not in KINDS:
        raise ShapeError(unknown("projector", kind, KINDS))
    ours, theirs = tuple(student_shape), tuple(teacher_shape)
    wanted = kind == "regressor"
    norm = wanted if norm is None else norm
    activation = wanted if activation is None else activation
    layer = _make_layer(kind, ours, theirs, names)
    parts: list[nn.Module] = [layer]
    if norm:
        parts.append(_make_norm(theirs))
    if activation:
        parts.append(nn.ReLU())
    return nn.Sequential(*parts) if len(parts) > 1 else layer


def _make_layer(
    kind: str, ours: tuple[int, ...], theirs: tuple[int, ...], names: tuple[str, str]
) -> nn.Module:
    if len(ours) != len(theirs):
        forms = f"{_form(ours)} against {_form(theirs)}"
        raise _misfit(
            names, ours, theirs, f"features have different numbers of dimensions, {forms}"
        )
    if kind == "identity":
        if ours[1:] != theirs[1:]:
            raise _misfit(names, ours, theirs, "'identity' needs equal shapes")
        return nn.Identity()
    if len(ours) in (2, 3):
        return _make_linear(kind, ours, theirs, names)
    if len(ours) == 4:
        return _make_convolution(kind, ours, theirs, names)
    raise _misfit(names, ours, theirs, "expected vectors, tokens or maps (2, 3 or 4 dimensions)")


def _make_linear(
    kind: str, ours: tuple[int, ...], theirs: tuple[int, ...], names: tuple[str, str]
) -> nn.Module:
    if kind not in ("auto", "linear"):
        form = "vectors" if len(ours) == 2 else "tokens"
        raise _misfit(names, ours, theirs, f"{kind!r} is for maps, these are {form}: use 'linear'")
    if ours[1:-1] != theirs[1:-1]:
        raise _misfit(names, ours, theirs, "the numbers of tokens differ")
    return nn.Linear(ours[-1], theirs[-1])


def _make_convolution(
    kind: str, ours: tuple[int, ...], theirs: tuple[int, ...], names: tuple[str, str]
) -> nn.Module:
    if kind == "linear":
        raise _misfit(names, ours, theirs, "'linear' is for vectors, these are maps: use 'conv1x1'")
    same = ours[2:] == theirs[2:]
    if kind == "auto":
        kind = "conv1x1" if same else "regressor"
    if kind in ("conv1x1", "conv3x3"):
        if not same:
            message = f"{kind!r} needs maps of equal size: use 'regressor'"
            raise _misfit(names, ours, theirs, message)
        size = 1 if kind == "conv1x1" else 3
        return nn.Conv2d(ours[1], theirs[1], size, padding=size // 2)
    pairs = list(zip(ours[2:], theirs[2:], strict=True))
    if all(mine == 2 * other for mine, other in pairs):
        return nn.Conv2d(ours[1], theirs[1], 3, stride=2, padding=1)
    if all(2 * mine == other for mine, other in pairs):
        return nn.ConvTranspose2d(ours[1], theirs[1], 4, stride=2, padding=1)
    if all(mine >= other for mine, other in pairs):
        height, width = (1 + mine - other for mine, other in pairs)
        return nn.Conv2d(ours[1], theirs[1], (height, width))
    raise _misfit(names, ours, theirs, "the student's map is smaller, and not by exactly half")


def _make_norm(shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 4:
        return nn.BatchNorm2d(shape[1])
    return nn.BatchNorm1d(shape[1]) if len(shape) == 2 else nn.LayerNorm(shape[-1])


def _form(shape: tuple[int, ...]) -> str:
    return {2: "vectors", 3: "tokens", 4: "maps"}.get(len(shape), f"{len(shape)} dimensions")


def _misfit(
    names: tuple[str, str], ours: tuple[int, ...], theirs: tuple[int, ...], reason: str
) -> ShapeError:
    return ShapeError(
        f"no projector from student tap {names[0]!r} {list(ours)} to teacher tap {names[1]!r} "
        f"{list(theirs)}: {reason}; name layers that fit (pairs: [[student tap, teacher tap]], or "
        "pairs: penultimate for the vectors that the heads read)"
    )
