"""`agehpc data`: its commands, without their imports, so that its help is quick."""

from agehpc.cli import dispatch


def main(argv: list[str]) -> int:
    """Run a command of `agehpc data`."""
    table = {
        "pack": ("agehpc.data.pack_command:pack_main", "make shards of videos, images or arrays"),
        "index": ("agehpc.data.index_command:main", "make tars of others usable, without a copy"),
        "inspect": ("agehpc.data.inspect_command:main", "show what a folder of shards holds"),
        "digits": ("agehpc.data.pack_command:digits_main", "pack the real digits of agehpc[demo]"),
        "verify": ("agehpc.data.verify:main", "check every byte and sample of a folder of shards"),
        "demo": ("agehpc.data.pack_command:demo_main", "pack the real clips of agehpc[demo]"),
    }
    return dispatch("agehpc data", table, argv)
