"""Configuration: the frozen tree, its loading and the plan for a world size. Imports no torch."""
