"""`agehpc checkpoint`: its commands, without their imports, so that its help is quick."""

from agehpc.cli import dispatch


def main(argv: list[str]) -> int:
    """Run a command of `agehpc checkpoint`."""
    table = {
        "list": ("agehpc.checkpoint_show:list_main", "show a run's checkpoints and their figures"),
        "verify": ("agehpc.checkpoint_show:verify_main", "compare every byte with the checksums"),
        "export": (
            "agehpc.checkpoint_convert:export_main",
            "write the averaged model to one file that agehpc.load reads",
        ),
        "convert": (
            "agehpc.checkpoint_convert:convert_main",
            "a run's weights to a torch state dict, or one to a model file",
        ),
    }
    return dispatch("agehpc checkpoint", table, argv)
