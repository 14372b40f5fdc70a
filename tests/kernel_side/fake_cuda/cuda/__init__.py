"""A FAKE of NVIDIA's package `cuda-bindings`, for machines without a GPU."""
