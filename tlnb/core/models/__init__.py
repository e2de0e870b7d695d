"""Networks: the catalogue, pretrained weights, tracing, anatomy, stages, FLOPs."""
