# Settings of a site: sourced by the batch scripts before the ranks start, on the first node.
# This one changes nothing. Copy it to slurm/sites/NAME.sh, edit, and export AGEHPC_SITE=NAME.
# What it exports reaches every rank. See a100_modules.sh for a filled-in example.
# shellcheck shell=bash
