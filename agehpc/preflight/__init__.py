"""Whether a job's nodes are fit to train together, and which are not."""
