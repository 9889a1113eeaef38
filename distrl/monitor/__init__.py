"""The files that a run writes in; TensorBoard, Weights & Biases and a terminal's display out. Nobody here can hold up
the run."""
