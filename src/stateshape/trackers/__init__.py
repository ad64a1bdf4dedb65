"""Experiment trackers (TensorBoard, trackio, Weights & Biases, MLflow), fed from the files of a run while it trains."""
