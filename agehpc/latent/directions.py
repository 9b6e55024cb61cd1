"""Directions in latent space: from labels, from principal components, from files.

Shapes: N samples, Z latent size, K directions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from agehpc.errors import DataError, UsageError
from agehpc.latent.codes import read_arrays, save_arrays

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["lda", "mean"]


@dataclass(frozen=True)
class Directions:
    """Steps in latent space.

    Attributes:
        steps_KZ: float32; a strength of 1 adds one of them to a latent.
        names: what each stands for.
    """

    steps_KZ: np.ndarray
    names: tuple[str, ...]


def class_direction(
    z_NZ: np.ndarray, is_class_N: np.ndarray, name: str, method: Method = "lda"
) -> Directions:
    """The direction towards a class; a strength of 1 is the way between the classes' means.

    `mean` is the difference of the means of the class and of all others. `lda` is the normal of
    Fisher's linear discriminant (pooled covariance S within the classes, w = S^-1 (m1 - m0), S
    shrunk by a thousandth of its mean variance), which leaves alone what merely correlates with
    the class; its step s u along the unit normal u moves the mean of the others as far along u as
    the class's lies: s = (m1 - m0) . u.

    Args:
        z_NZ: latents.
        is_class_N: truth values.
        name: of the class.
        method: see above.

    Raises:
        UsageError: no sample of the class, or no other; `lda` of classes of one sample each.
    """
    chosen = z_NZ[is_class_N].astype(np.float64)
    others = z_NZ[~is_class_N].astype(np.float64)
    if not len(chosen) or not len(others):
        what = "no" if not len(chosen) else "only"
        raise UsageError(f"{what} samples of class {name} among the {len(z_NZ)} latents")
    gap_Z = chosen.mean(0) - others.mean(0)
    if method == "lda":
        centred = np.concatenate([chosen - chosen.mean(0), others - others.mean(0)])
        s_ZZ = centred.T @ centred / len(centred)
        shrink = 1e-3 * np.trace(s_ZZ) / len(s_ZZ)
        if not shrink > 0:
            raise UsageError(
                f"the {len(z_NZ)} latents do not vary within the classes, which lda weighs by: "
                "give more with --fit-n, or set --method mean"
            )
        w_Z = np.linalg.solve(s_ZZ + shrink * np.eye(len(s_ZZ)), gap_Z)
        u_Z = w_Z / np.linalg.norm(w_Z)
        gap_Z = (gap_Z @ u_Z) * u_Z
    return Directions(gap_Z[None].astype(np.float32), (name,))


def apply(z_BZ: "Tensor", step_Z: np.ndarray, strength: float) -> "Tensor":
    """z + strength * step, on the device of z."""
    import torch

    return z_BZ + strength * torch.from_numpy(step_Z).to(z_BZ)


def separation(z_NZ: np.ndarray, is_class_N: np.ndarray, step_Z: np.ndarray) -> float:
    """Share of samples that the plane halfway between the classes tells right.

    The plane's normal is the step; both classes count the same (balanced accuracy).
    """
    along_N = z_NZ.astype(np.float64) @ step_Z.astype(np.float64)
    middle = (along_N[is_class_N].mean() + along_N[~is_class_N].mean()) / 2
    right = (along_N > middle) == is_class_N
    return float((right[is_class_N].mean() + right[~is_class_N].mean()) / 2)


@dataclass(frozen=True)
class Components:
    """Principal components of latents.

    Attributes:
        mean_Z: float64.
        axes_ZZ: float64, a component a row, of unit length, the one of largest variance first.
        deviations_Z: float64 standard deviations along them.
    """

    mean_Z: np.ndarray
    axes_ZZ: np.ndarray
    deviations_Z: np.ndarray

    @property
    def shares_Z(self) -> np.ndarray:
        """Share of the variance that each explains."""
        return self.deviations_Z**2 / np.square(self.deviations_Z).sum()

    def directions(self, count: int) -> Directions:
        """The first components; a strength of 1 is one standard deviation.

        UsageError for more than there are.
        """
        if count > len(self.axes_ZZ):
            raise UsageError(
                f"--pca {count}: latents of size {len(self.axes_ZZ)} have no more components"
            )
        steps_KZ = self.axes_ZZ[:count] * self.deviations_Z[:count, None]
        names = tuple(f"component {k}" for k in range(count))
        return Directions(steps_KZ.astype(np.float32), names)


def principal_components(z_NZ: np.ndarray) -> Components:
    """Principal components by the eigenvectors of the covariance.

    Their signs are arbitrary: each is turned so that its largest entry is positive. UsageError
    for latents that do not vary.
    """
    z = z_NZ.astype(np.float64)
    mean_Z = z.mean(0)
    centred = z - mean_Z
    if not centred.any():
        raise UsageError(
            f"the {len(z)} latents are all the same: they have no principal components; give "
            "more with --fit-n"
        )
    values_Z, vectors_ZZ = np.linalg.eigh(centred.T @ centred / len(z))
    axes_ZZ = vectors_ZZ.T[::-1]
    largest_Z = np.abs(axes_ZZ).argmax(1)
    axes_ZZ = axes_ZZ * np.sign(axes_ZZ[np.arange(len(axes_ZZ)), largest_Z])[:, None]
    return Components(mean_Z, axes_ZZ, np.sqrt(values_Z[::-1].clip(0)))


def save_directions(path: Path, directions: Directions) -> None:
    """Write directions as arrays `steps` and `names` of an .npz file, atomically."""
    save_arrays(path, {"steps": directions.steps_KZ, "names": np.array(directions.names)})


def read_directions(path: str | Path, latent: int) -> Directions:
    """Read directions for latents of size `latent`.

    UsageError where there is no file or it is for another size, DataError where it is damaged.
    """
    arrays = read_arrays(path, "--direction")
    if not {"steps", "names"} <= arrays.keys():
        raise DataError(
            f"--direction {path} holds no directions; make it with `agehpc edit --save-direction`"
        )
    steps_KZ = arrays["steps"]
    if steps_KZ.ndim != 2 or len(steps_KZ) != len(arrays["names"]):
        raise DataError(f"--direction {path}: steps must have the shape K Z: {steps_KZ.shape}")
    if steps_KZ.shape[1] != latent:
        raise UsageError(
            f"--direction {path} is for latents of size {steps_KZ.shape[1]}, the run's have "
            f"{latent}; use the run that it was made with"
        )
    return Directions(steps_KZ.astype(np.float32), tuple(map(str, arrays["names"])))
