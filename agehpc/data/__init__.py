"""Shards: packing, order, decoding and loading."""
