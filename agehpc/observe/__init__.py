"""What a run shows: console, metrics, TensorBoard, sample grids."""
