"""Uses of a trained model: plain functions here, a command for each in `commands`."""
