"""What a run will need and how it will scale, worked out on paper: nothing is allocated."""
