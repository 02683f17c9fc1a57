"""What looks on inside the process of a guarded command: this folder stands on its PYTHONPATH, and imports nothing of ours."""
