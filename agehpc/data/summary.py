"""What packing says: before, on --dry-run, and after."""

import json
from collections.abc import Sequence
from pathlib import Path

from agehpc.data.pack import Plan
from agehpc.data.shards import Manifest

LONG_GOP = 32  # from here on a random clip costs noticeably more


def intention(plan: Plan, out: str, as_json: bool) -> str:
    """Say what would be packed."""
    splits = plan.splits(plan.groups)
    held_out = sorted(group for group, split in splits.items() if split == "validation")
    classes = sorted({label for label in plan.labels if label is not None})
    about = {
        "kind": plan.settings.kind,
        "channels": plan.settings.channels,
        "pairs": plan.settings.pairs,
        "sources": len(plan.sources),
        "groups": len(splits),
        "validation_groups": held_out,
        "classes": classes,
    }
    if as_json:
        return json.dumps(about, indent=2) + "\n"
    return (
        f"would pack {len(plan.sources)} {plan.settings.kind}s at {plan.settings.size} pixels, "
        f"{plan.settings.channels} channel(s), into {out}\n"
        f"  pairs: {plan.settings.pairs or 'none'}\n"
        f"  groups: {len(splits)}, held out for validation: {_some(held_out)}\n"
        f"  classes: {_some(classes)}\n"
    )


def summary(manifest: Manifest, out: str) -> str:
    """Say what was packed."""
    head = (
        f"packed {manifest.sources} {manifest.kind} source(s) at {manifest.size} pixels, "
        f"{manifest.channels} channel(s), into {out}"
    )
    return "\n".join([head, *_held(manifest, out)]) + "\n"


def indexed(manifest: Manifest, out: str) -> str:
    """Say what was indexed."""
    head = (
        f"indexed {manifest.sources} {manifest.kind}(s) of {manifest.size} pixels, "
        f"{manifest.channels} channel(s), where they are; train with --data.shards {out}"
    )
    lines = [head, *_held(manifest, out)]
    gop = manifest.encoder.get("gop")
    if isinstance(gop, int) and gop > LONG_GOP:
        lines.append(
            f"  slow       up to {gop} frames between keyframes: `agehpc data pack` makes a random "
            "clip decode several times faster"
        )
    return "\n".join(lines) + "\n"


def _held(manifest: Manifest, out: str) -> list[str]:
    video = manifest.kind == "video"
    lines = []
    for split, shards in manifest.splits.items():
        frames = f", {sum(shard.frames for shard in shards)} frames" if video else ""
        lines.append(
            f"  {split:<10} {manifest.samples(split)} samples{frames} in {len(shards)} shard(s), "
            f"{sum(shard.bytes for shard in shards) / 1e6:.1f} MB, "
            f"{manifest.groups[split]} group(s)"
        )
    if manifest.pairs:
        lines.append(f"  pairs      {manifest.pairs}, {manifest.input_channels} channel(s)")
    lines.append(f"  classes    {_some(manifest.classes)}")
    for reason, count in sorted(manifest.rejects.items()):
        lines.append(f"  rejected   {count} {reason}: see {Path(out) / 'rejects.jsonl'}")
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more
