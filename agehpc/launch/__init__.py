"""Starting runs on a Slurm cluster: the batch script, the code it runs, submitting it."""
