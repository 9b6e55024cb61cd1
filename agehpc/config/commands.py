"""`agehpc config`: its commands, without their imports, so that its help is quick."""

from agehpc.cli import dispatch


def main(argv: list[str]) -> int:
    """Run `agehpc config show` or `agehpc config list`."""
    table = {
        "show": (
            "agehpc.config.show:show",
            "print a resolved configuration and where its values are from",
        ),
        "list": ("agehpc.config.show:list_recipes", "list the recipes"),
    }
    return dispatch("agehpc config", table, argv)
