"""Export: runs as files, saved models, the plain PyTorch script."""
