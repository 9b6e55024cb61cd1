"""Recipes: named full configurations as functions.

A recipe's docstring holds its command, the time it takes and the score it reached.
"""

from collections.abc import Callable

from agehpc.config.schema import Config
from agehpc.recipes import adversarial, autoencoders, digits, image, variants, video

RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (
        video.video_age_demo,
        video.video_age_64,
        video.video_age_a100_4n,
        image.image_age_demo,
        image.image_age_64,
        image.image_age_a100_4n,
        variants.image_age_vae_64,
        variants.image_age_joint_64,
        variants.image_age_conditional_64,
        variants.image_age_moments_64,
        variants.video_age_conditional_64,
        digits.mnist_autoencoder,
        digits.mnist_autoencoder_deep,
        digits.mnist_denoising,
        digits.mnist_vae,
        digits.mnist_gan_dense,
        digits.mnist_gan_dense_hidden,
        digits.mnist_gan_conv,
        autoencoders.image_autoencoder_64,
        autoencoders.superres_64,
        autoencoders.video_autoencoder_64,
        autoencoders.video_denoising_64,
        autoencoders.video_vae_64,
        adversarial.dcgan_64,
        adversarial.conditional_gan_64,
        adversarial.wgan_gp_64,
        adversarial.wgan_clip_64,
        adversarial.video_gan_64,
        adversarial.video_wgan_64,
        adversarial.pix2pix_64,
        adversarial.cyclegan_64,
    )
}


def summary(name: str) -> str:
    """Return the first line of a recipe's docstring."""
    return (RECIPES[name].__doc__ or "").partition("\n")[0]
