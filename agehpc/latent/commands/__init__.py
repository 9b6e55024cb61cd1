"""The commands that use a trained model; each module holds the flags and `main(argv)` of one."""
