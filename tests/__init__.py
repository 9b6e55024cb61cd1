"""The tests: a regular package, so that one of this name among installed packages is not it."""
