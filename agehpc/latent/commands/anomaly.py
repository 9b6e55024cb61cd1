"""`agehpc anomaly RUN`: which samples of a split are unlike what the run was trained on."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agehpc.errors import UsageError
from agehpc.latent import command

if TYPE_CHECKING:
    import numpy as np

    from agehpc.config.schema import DataConfig
    from agehpc.trained import Model

Weight = Annotated[float, Field(ge=0)]


class AnomalyFlags(command.SplitFlags):
    """Score the samples of a split; write scores.csv and the most and least anomalous samples."""

    weights: tuple[Weight, ...] = ()
    """Three weights: of the reconstruction's error, of the discriminator's features' distance, of
    the latent's; each part is brought to deviation 1 first. Default 1 1 0, without a discriminator
    1 0 0."""
    loss: Literal["mse", "l1"] = "mse"
    """The reconstruction's error."""
    normal: tuple[str, ...] = ()
    """Classes that are normal: all others are anomalies; prints the AUROC."""
    abnormal: tuple[str, ...] = ()
    """Classes that are anomalies: all others are normal; prints the AUROC."""
    columns: command.Count = 8
    """Most and least anomalous samples shown."""


def main(argv: list[str]) -> int:
    """Run `agehpc anomaly`."""
    run, flags = command.parse(AnomalyFlags, argv, "agehpc anomaly")
    out = command.destination(run, flags, "anomalies")
    model = command.load_model(run, flags, "encode", "generate")
    data = command.split_data(model.config, flags)
    classes = command.classes_of(data)
    anomalous = _anomalous(flags, classes)
    weights = _weights(model, flags)
    if flags.dry_run:
        told = {"run": str(run), "split": flags.split, "would_write_to": str(out)}
        return command.say(flags, told)
    scored = _score(model, data, flags, weights)
    figures = {"split": flags.split, "n": len(scored.total_N)}
    figures |= _aurocs(scored, anomalous)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "scores.csv", scored, classes)
    paths = [str(out / "scores.csv"), *_show(model, data, flags, scored, out)]
    return command.say(flags, figures | {"paths": paths})


@dataclass(frozen=True)
class _Scored:
    """Scores of N samples: the parts, their weighted sum, labels and positions in the split."""

    parts: "dict[str, np.ndarray]"
    total_N: "np.ndarray"
    labels_N: "np.ndarray"
    positions_N: "np.ndarray"


def _weights(model: "Model", flags: AnomalyFlags) -> dict[str, float]:
    """The weights that are not 0, by part."""
    from agehpc.latent.anomaly import PARTS

    given = flags.weights or (1.0, 1.0 if model.can("critique") else 0.0, 0.0)
    if len(given) != len(PARTS) or not any(given):
        shown = " ".join(map(str, given))
        raise UsageError(f"--weights takes three, of {', '.join(PARTS)}, not all 0: got {shown}")
    weights = {name: w for name, w in zip(PARTS, given, strict=True) if w > 0}
    if "features" in weights:
        command.require(model, "critique")
    return weights


def _anomalous(flags: AnomalyFlags, classes: tuple[str, ...]) -> set[int] | None:
    """Numbers of the classes that are anomalies; None where the flags do not say."""
    if flags.normal and flags.abnormal:
        raise UsageError("give --normal or --abnormal, not both")
    normal = {command.class_number(name, classes, "--normal") for name in flags.normal}
    abnormal = {command.class_number(name, classes, "--abnormal") for name in flags.abnormal}
    if normal:
        return set(range(len(classes))) - normal
    return abnormal or None


def _score(
    model: "Model", data: "DataConfig", flags: AnomalyFlags, weights: dict[str, float]
) -> _Scored:
    import numpy as np

    from agehpc.data.pixels import to_float
    from agehpc.latent.anomaly import combine, scores

    parts: dict[str, list[np.ndarray]] = {name: [] for name in weights}
    labels, positions = [], []
    for batch in command.split_batches(data, flags):
        labels_B = command.labels_for(model, batch.labels)
        found, _ = scores(
            model, to_float(batch.pixels), tuple(weights), loss=flags.loss, labels_B=labels_B
        )
        for name, values in found.items():
            parts[name].append(values.cpu().numpy())
        labels.append(batch.labels.numpy())
        positions.append(batch.positions.numpy())
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    total_N = combine(joined, weights)
    return _Scored(joined, total_N, np.concatenate(labels), np.concatenate(positions))


def _aurocs(scored: _Scored, anomalous: set[int] | None) -> dict[str, Any]:
    """AUROC of the sum and of each part; samples without a class are left out."""
    import numpy as np

    from agehpc.latent.anomaly import auroc

    if anomalous is None:
        return {}
    known_N = scored.labels_N >= 0
    anomaly_N = np.isin(scored.labels_N, sorted(anomalous))[known_N]
    if not anomaly_N.any() or anomaly_N.all():
        what = "no anomalies" if not anomaly_N.any() else "anomalies only"
        raise UsageError(
            f"{what} among the {len(anomaly_N)} scored samples with a class: there is no AUROC; "
            "score more with --n, or other classes with --normal or --abnormal"
        )
    figures: dict[str, Any] = {
        "anomalies": int(anomaly_N.sum()),
        "auroc": auroc(scored.total_N[known_N], anomaly_N),
    }
    for name, part_N in scored.parts.items():
        figures[f"auroc_{name}"] = auroc(part_N[known_N], anomaly_N)
    return figures


def _write(path: Path, scored: _Scored, classes: tuple[str, ...]) -> None:
    """Write a row a sample, in the order of the split."""
    from agehpc.files import atomic_path

    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["position", "class", "score", *scored.parts])
        for n, position in enumerate(scored.positions_N):
            label = scored.labels_N[n]
            values = [scored.total_N[n], *(part[n] for part in scored.parts.values())]
            name = classes[label] if label >= 0 else ""
            writer.writerow([position, name, *(f"{value:.8g}" for value in values)])


def _show(
    model: "Model", data: "DataConfig", flags: AnomalyFlags, scored: _Scored, out: Path
) -> list[str]:
    """Draw the most and the least anomalous samples, each row above its reconstructions."""
    import numpy as np

    from agehpc.data.pixels import to_float
    from agehpc.observe.grids import to_uint8

    order = np.argsort(-scored.total_N, kind="stable")
    paths = []
    for name, picks in (("most", order), ("least", order[::-1])):
        places = scored.positions_N[picks[: flags.columns]].tolist()
        batch = command.chosen_samples(data, flags, places)
        labels_B = command.labels_for(model, batch.labels)
        y_BCS = to_uint8(model.reconstruct(to_float(batch.pixels), labels_B))
        rows = [batch.pixels.numpy(), y_BCS]
        paths += command.save_rows(out / f"{name}-anomalous", rows, model.config)
    return paths
