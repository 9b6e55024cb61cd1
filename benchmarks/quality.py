"""How good a trained run is: reconstruction PSNR and a Frechet distance of its samples.

    python benchmarks/quality.py runs/images
    python benchmarks/quality.py runs/clips --n 1000 --json

Reconstructions of the validation split are compared with the mean training sample, where the
system reconstructs. Samples, or translations of the validation inputs, are compared with the
validation split by the Frechet distance of EfficientNet-Lite0 features, and so are as many
training samples: the figure of a generator that repeats its training set. The
distance is named frechet_lite0 (frechet_lite0_frames for video, taken on single frames). It is no
FID: features, resolution and sample counts differ. Compare figures of equal n only.

Needs agehpc[evaluate].
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.loader import Batch, train_batches, validation_batches
from agehpc.data.mixture import read_shards
from agehpc.data.pixels import to_float
from agehpc.errors import EXIT_DONE, AgehpcError, UsageError
from agehpc.evaluate.features.base import Extractor, build
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.moments import Moments
from agehpc.generate import reconstruct_main
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model, load

# Letters of shapes: N pictures, B samples, C channels, T frames, H height, W width, F features.
FRAME_STEP = 4
"""Every so many frames of a clip are compared."""
STATISTICS = "float64, unbiased covariance"


def distance(x_NF: np.ndarray, y_NF: np.ndarray) -> float:
    """Return the Frechet distance of the Gaussians fitted to two sets of features."""
    both = [Moments(x_NF.shape[1]) for _ in "xy"]
    for moments, rows in zip(both, (x_NF, y_NF), strict=True):
        moments.add(torch.from_numpy(rows))
    x, y = both
    return frechet(x.mean_F, x.covariance(), y.mean_F, y.covariance())


def frames(x_BCS: np.ndarray) -> np.ndarray:
    """Return pictures NCHW: images as they are, of clips BCTHW every FRAME_STEP-th frame."""
    if x_BCS.ndim == 4:
        return x_BCS
    picked_BTCHW = x_BCS[:, :, ::FRAME_STEP].swapaxes(1, 2)
    return picked_BTCHW.reshape(-1, *picked_BTCHW.shape[2:])


def features(lite0: Extractor, batches: Iterable[np.ndarray], n: int) -> np.ndarray:
    """Return the float64 features NF of the first n pictures."""
    parts: list[np.ndarray] = []
    left = n
    for x_BCS in batches:
        pictures = frames(x_BCS)[:left]
        x_NCHW = torch.from_numpy(np.ascontiguousarray(pictures))
        parts.append(lite0(x_NCHW)["features"].double().cpu().numpy())
        left -= len(pictures)
        if not left:
            break
    assert not left, f"{left} pictures of {n} are missing"
    return np.concatenate(parts)


def validation_samples(data: DataConfig, count: int, total: int, batch: int) -> Iterator[Any]:
    """Yield `count` of the split's `total` samples, evenly spaced: its order may be by class."""
    for loaded in spread(data, count, total, batch):
        yield compared(data, loaded)


def compared(data: DataConfig, loaded: Batch) -> np.ndarray:
    """Return the samples of a batch that are compared: of unpaired data the second domain's."""
    second = loaded.second if data.pairing == "unpaired" else None
    return (loaded.pixels if second is None else second).numpy()


def spread(data: DataConfig, count: int, total: int, batch: int) -> Iterator[Any]:
    """Yield batches of `count` of the validation split's `total` samples, evenly spaced."""
    keep = {number * total // count for number in range(count)}
    for loaded in validation_batches(data, batch=batch, limit=total):
        picked = torch.tensor([p in keep for p in loaded.positions.tolist()])
        if picked.any():
            loaded.pixels = loaded.pixels[picked]
            loaded.second = None if loaded.second is None else loaded.second[picked]
            yield loaded


def training_samples(data: DataConfig, seed: int, batch: int) -> Iterator[Any]:
    """Yield training samples without end, in a shuffled order and without augmentation.

    Of unpaired data those of the second domain.
    """
    plain = {"flip": False, "shift": 0, "colour": 0.0, "strides": data.strides[:1], "workers": 0}
    stream = train_batches(
        data.model_copy(update=plain),
        seed,
        start=0,
        global_batch=batch,
        micro_batch=batch,
        accumulation=1,
        rank=0,
        world_size=1,
    )
    for loaded in stream:
        yield compared(data, loaded)


def distances(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Return the Frechet distances of what a run makes and of its training samples."""
    data = model.config.data
    if options.shards:
        data = data.at(options.shards)
    manifest = read_shards(data)
    data = check(data, manifest)
    each = len(range(0, data.frames, FRAME_STEP))  # pictures of a sample
    total = manifest.samples("validation")
    if data.pairing == "unpaired":  # samples of either domain: the smaller one's
        total = sum(len(b.pixels) for b in validation_batches(data, batch=64, limit=None))
    n = min(options.n, each * min(total, manifest.samples("train")))
    if n < 2:
        raise UsageError(f"{data.where} has {total} validation samples: too few for statistics")
    count, batch = -(-n // each), options.batch
    lite0 = build("lite0", options.device)
    generated = (
        (to_uint8(model.sample(batch, options.seed, first)) for first in range(0, count, batch))
        if model.can("sample")
        else translations(model, data, count, total, batch)
    )
    real = features(lite0, validation_samples(data, count, total, batch), n)
    name = "frechet_lite0" if data.kind == "image" else "frechet_lite0_frames"
    return {
        name: distance(features(lite0, generated, n), real),
        f"{name}_of_training": distance(
            features(lite0, training_samples(data, options.seed, batch), n), real
        ),
        "n": n,
        "n_asked": options.n,
        "dataset_id": data.dataset_id,
        "protocol": lite0.fingerprint | {"statistics": STATISTICS},
    }


def translations(model: Any, data: DataConfig, count: int, total: int, batch: int) -> Iterator[Any]:
    """Yield what a run makes of validation inputs: of pairs, or of the first domain."""
    for loaded in spread(data, count, total, batch):
        x = loaded.second if data.pairing == "paired" else loaded.pixels
        yield to_uint8(model.translate(to_float(x)))


def reconstruction(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what `agehpc reconstruct` says of the validation split."""
    shards = ["--shards", options.shards] if options.shards else []
    said = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="agehpc-bench-") as folder:
        words = [str(run), "--json", "--out", folder, "--n", str(options.n), *shards]
        words += ["--checkpoint", options.checkpoint, "--device", options.device]
        with contextlib.redirect_stdout(said):
            reconstruct_main(words)
    figures = json.loads(said.getvalue())
    names = ("psnr_db", "mean_sample_psnr_db", "gain_db")
    return {name: figures[name] for name in names} | {"psnr_samples": figures["n"]}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="run directory")
    add("--n", type=int, default=2500, help="pictures of each set, at most (default 2500)")
    add("--shards", help="directory of shards (default: the run's own)")
    add("--checkpoint", default="latest", help="latest, or a name as step-00001000")
    add("--seed", type=int, default=0, help="seed of the noise and of the training samples' order")
    add("--batch", type=int, default=50, help="samples generated and decoded at once")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute")
    add("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    if options.n < 2 or options.batch < 1:
        parser.error("--n is 2 or more, --batch 1 or more")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    options = parse(argv)
    try:
        model = load(options.run, checkpoint=options.checkpoint, device=options.device)
        rebuilds = model.can("encode") and model.can("generate")
        figures = reconstruction(options.run, options) if rebuilds else {}
        if model.can("sample") or model.can("translate"):
            figures |= distances(model, options)
    except AgehpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    told = {"run": str(options.run), "checkpoint": options.checkpoint, **figures}
    if options.json:
        print(json.dumps(told, indent=2))
        return EXIT_DONE
    for name, value in told.items():
        print(f"{name}  {value:.2f}" if isinstance(value, float) else f"{name}  {value}")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
