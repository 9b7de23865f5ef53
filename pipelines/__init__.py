"""One module per job: options and wiring, nothing else."""

import os

# Before TensorFlow is first imported, here or in a worker: it would greet every process with a page of notes.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
