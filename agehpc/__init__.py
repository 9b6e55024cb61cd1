"""agehpc: train Auto GAN Encoder models on images and video.

`agehpc.load(RUN)` gives the trained model of a run directory: `encode`, `decode`, `sample`,
`reconstruct`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agehpc.trained import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: only what needs it pays for it.
    if name in ("Model", "load"):
        from agehpc import trained

        return getattr(trained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
