"""Command lines of `agehpc launch` whose batch scripts are kept in golden/."""

from collections.abc import Mapping
from typing import NamedTuple


class Case(NamedTuple):
    """A command line and the variables it meets."""

    words: str
    environ: Mapping[str, str] = {}


CASES = {
    "cpu": Case(
        "mnist_vae --nodes 2 --tasks-per-node 2 --cpus-per-task 4 --environment path "
        "--data.shards shards/digits --out runs/digits"
    ),
    "venv": Case(
        "video_age_a100_4n --nodes 4 --gpus-per-node 4 --cpus-per-task 16 --time 24:00:00 "
        "--partition gpu --account project7 --sbatch exclusive mem=0 constraint=a100 "
        "--site a100_modules --data.shards shards/a shards/b --train.kimg 5000 --out runs/first",
        {"AGEHPC_VENV": "/opt/venv of all", "AGEHPC_LOCAL_TMP": "/local"},
    ),
    "pyxis": Case(
        "video_age_64 --gpus-per-node 8 --environment pyxis --image /images/agehpc.sqsh "
        "--mounts /data,/scratch --data.shards /data/clips --out /scratch/runs/clips"
    ),
    "apptainer_chain": Case(
        "image_age_64 --gpus-per-node 1 --time 1-0 --chain 5 --grace-s 600 --name faces "
        "--data.shards /data/faces --config faces.yaml --out runs/faces",
        {"AGEHPC_ENVIRONMENT": "apptainer", "AGEHPC_IMAGE": "/images/agehpc.sif"},
    ),
    "torchrun": Case(
        "image_age_64 --nodes 2 --gpus-per-node 4 --launcher torchrun --data.shards=/data/faces "
        "--out=runs/faces",
        {"AGEHPC_COMMAND": "/opt/venv/bin/agehpc"},
    ),
    "odd_names": Case(
        """image_age_64 --environment path --data.shards "it's here" '$HOME/`x`' """
        '--out "runs/a b%c"'
    ),
    "credentials": Case(
        "image_age_64 --environment path --data.shards 'https://ann:hunter2@h/x?sig=1' --out runs/r"
    ),
}
