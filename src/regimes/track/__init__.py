"""Runs in the tracker that a person uses: TensorBoard, Weights & Biases, MLflow, Trackio.

A tracker follows the records that a run leaves in its folder, in a process of its own. What it holds is a copy of
them, so that a run is the same with and without it, that a tracker that fails costs no more than its copy, and that
the same call sends what is missing.

This file imports nothing: the tracker's process reads records and needs no torch.
"""
