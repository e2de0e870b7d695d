"""Files on disk: checked arrays, the activation cache, memory-mapped tensors, downloads."""
