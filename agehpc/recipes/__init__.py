"""Recipes: named full configurations as functions.

A recipe's docstring holds its command, the time it takes and the score it reached.
"""

from collections.abc import Callable

from agehpc.config.schema import Config
from agehpc.recipes import image, video

RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (
        video.video_age_demo,
        video.video_age_64,
        video.video_age_a100_4n,
        image.image_age_demo,
        image.image_age_64,
        image.image_age_a100_4n,
    )
}


def summary(name: str) -> str:
    """Return the first line of a recipe's docstring."""
    return (RECIPES[name].__doc__ or "").partition("\n")[0]
