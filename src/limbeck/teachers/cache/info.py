"""What a cache holds, and why it holds it so, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.teachers.cache.budget import shown
from limbeck.teachers.cache.codec import Codec
from limbeck.teachers.cache.manifest import FORMAT, Manifest
from limbeck.teachers.cache.sparse import most_bytes


def explain(folder: Path, manifest: Manifest) -> list[str]:
    """Return the lines "label  text" that ``limbeck cache --info`` prints."""
    key, views = manifest.key, manifest.views
    codec = Codec(**key["codec"])
    lines = [
        ("cache", f"{folder} (format {FORMAT})"),
        ("teacher", f"{manifest.about['teacher']}; fingerprint {key['teacher'][:12]}"),
        ("data", f"{manifest.about['data']}; fingerprint {key['data'][:12]}"),
        ("inputs", _inputs(key, views)),
        ("kept", f"logits as {codec.describe()}{_features(key)}"),
        ("why", codec.why()),
        ("size", _size(manifest)),
        ("others", _others(codec, manifest.classes)),
    ]
    first = next(iter(views.values()), None)
    if first is not None:
        lines.append(("accuracy", _accuracy(first["measured"])))
        lines.append(("bits", _bits(codec, key, first)))
    for name, entry in views.items():
        size = sum(shard["bytes"] for shard in entry["shards"])
        count = len(entry["shards"])
        lines.append((f"view {name}", f"{count} shard{'' if count == 1 else 's'}, {shown(size)}"))
    width = max(len(label) for label, _ in lines)
    return [f"{label:<{width}}  {text}" for label, text in lines]


def difference_note(entry: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say what keeps a run from being equal bit for bit to the live teacher; None: nothing.

    Args:
        entry: the manifest's, of a view that is kept as it was answered.
        now: conditions of the run.
    """
    other = other_conditions(entry, now)
    if other and entry["stable"]:
        return f"{other}: equal to the live teacher to {_ROUNDING}, not bit for bit"
    if not entry["stable"]:
        return f"{_moved(entry)}, not bit for bit"
    return None


def other_conditions(entry: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the conditions of a view's capture that are others now; None: all are the same."""
    captured = entry["conditions"]
    other = [name for name in captured if captured[name] != now.get(name)]
    told = ", ".join(f"{name} {captured[name]} (now {now.get(name)})" for name in other)
    return f"captured with {told}" if other else None


_ROUNDING = "rounding, in float32 about 1e-6 of the largest logit"


def moved(gap: float | None) -> str:
    """Say how far the rest of a batch moves an answer; None: an early version did not measure."""
    much = "in last bits" if gap is None else f"by up to {gap:.1g} of its size"
    return f"the samples beside one change its answer {much}: equal to the live teacher to that"


def _moved(entry: Mapping[str, Any]) -> str:
    return moved(entry.get("gap"))


def _inputs(key: Mapping[str, Any], views: Mapping[str, Any]) -> str:
    steps = key["augmentation"] or "none"
    if key["inputs"] == "clean":
        return f"clean: each sample once, as evaluation shows it ({steps}); the student's differ"
    if key["seed"] is None:
        return f"each sample once: nothing in its view is random ({steps})"
    names = ", ".join(views) or "none yet"
    return f"augmented views {names} of seed {key['seed']} ({steps}), cycled by both models"


def _features(key: Mapping[str, Any]) -> str:
    taps = key["outputs"][1:]
    return f"; features of {', '.join(taps)} as {key['codec']['features']}" if taps else ""


def _size(manifest: Manifest) -> str:
    count = len(manifest.views)
    text = f"{shown(manifest.bytes)}: {count} view{'' if count == 1 else 's'} of "
    text += f"{manifest.rows:,} samples"
    if count:
        text += f", {manifest.bytes / manifest.rows / count:.4g} bytes a sample and view"
    return text


def _others(codec: Codec, classes: int) -> str:
    """Say what the other codecs would take for the logits alone."""
    ids = 1 if classes <= 256 else 2 if classes <= 32768 else 4
    kept = min(codec.k, classes)
    sizes = {
        "float32": f"{4 * classes:,}",
        "float16": f"{2 * classes:,}",
        f"topk(k={kept})": f"{kept * (ids + 2) + 4:,}",
        f"sampled(rounds={codec.rounds})": f"at most {most_bytes(codec, classes):,}",
    }
    return "bytes of logits a sample: " + ", ".join(f"{k} {v}" for k, v in sizes.items())


def _accuracy(measured: Mapping[str, Any]) -> str:
    text = (
        f"{measured['what']}: mean {measured['kl']:.3g}, largest {measured['kl_most']:.3g}, over "
        f"{measured['rows']:,} samples"
    )
    if "gradient_variance" in measured:
        text += f"; variance of the gradient {measured['gradient_variance']:.3g}"
    if "features_relative_error" in measured:
        text += f"; relative error of features {measured['features_relative_error']:.3g}"
    return text


def _bits(codec: Codec, key: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    with_ = ", ".join(f"{name} {value}" for name, value in entry["conditions"].items())
    exact = codec.name == "float32" and key["codec"].get("features", "float32") == "float32"
    if not exact:
        what = "features are rounded" if codec.name == "float32" else "this form keeps less"
        return f"captured with {with_}; {what}: the losses are not those of the live teacher"
    if not entry["stable"]:
        return f"captured with {with_}; {_moved(entry)}"
    if key["inputs"] == "clean":
        return f"captured with {with_}; under these the answers are the live teacher's bit for bit"
    return (
        f"captured with {with_}; a run under these has the losses of one with the live teacher bit "
        f"for bit, any other equals it to {_ROUNDING}"
    )
