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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agehpc.cluster.environment import resolve
from agehpc.cluster.groups import process_group
from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.loader import samples_at
from agehpc.data.mixture import read_shards
from agehpc.data.pixels import to_float
from agehpc.errors import EXIT_DONE, AgehpcError, UsageError
from agehpc.evaluate.features.base import build
from agehpc.evaluate.measure import EVERY_FRAME, measure
from agehpc.evaluate.protocols import PROTOCOLS
from agehpc.evaluate.sources import Source, of_data, of_run
from agehpc.generate import reconstruct_main
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model, load

METRIC = "frechet_lite0"


def distances(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Return the Frechet distances of what a run makes and of its training samples."""
    data = model.config.data
    if options.shards:
        data = data.at(options.shards)
    data = check(data, read_shards(data))
    real, training = of_data(data, "validation"), of_data(data, "train")
    each = len(range(0, data.frames, EVERY_FRAME))  # pictures of a sample
    count = min(-(-options.n // each), real.count, training.count)
    if count * each < 2:
        raise UsageError(f"{real.where} has {real.count} samples: too few for statistics")
    made = (
        of_run(model, count, options.seed, str(options.run))
        if model.can("sample")
        else translations(model, data, real.count).part(count)
    )
    name = METRIC if data.kind == "image" else f"{METRIC}_frames"
    extractors = {PROTOCOLS[METRIC].way: build("lite0", options.device)}
    found = {}
    with (
        process_group(resolve({}), options.device, torch.get_num_threads()),
        tempfile.TemporaryDirectory(prefix="agehpc-bench-") as cache,
    ):
        for told, fake in ((name, made), (f"{name}_of_training", training.part(count))):
            given = [METRIC], real.part(count), fake, extractors
            (figure,) = measure(*given, batch=options.batch, cache=Path(cache))
            found[told] = figure.value
    return found | {
        "n": count * each,
        "n_asked": options.n,
        "dataset_id": data.dataset_id,
        "protocol": figure.fingerprint,
    }


def translations(model: Model, data: DataConfig, count: int) -> Source:
    """Return what a run makes of validation inputs: of pairs, or of the first domain."""

    def read(numbers: Sequence[int]) -> list[Tensor]:
        loaded = samples_at(data, split="validation", positions=numbers)
        x = loaded.second if data.pairing == "paired" else loaded.pixels
        assert x is not None
        return list(torch.from_numpy(to_uint8(model.translate(to_float(x)))))

    return Source("translations of the validation split", data.kind, count, {}, read)


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
    add("--seed", type=int, default=0, help="seed of the noise")
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
