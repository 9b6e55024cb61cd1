"""Networks that turn pictures and clips into the features that metrics compare."""
