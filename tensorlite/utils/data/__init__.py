"""Data sets, samplers and the loader that makes batches of them, under PyTorch's names. Floor 5."""

from tensorlite.utils.data.collate import default_collate, default_convert
from tensorlite.utils.data.dataset import Dataset, TensorDataset
from tensorlite.utils.data.loader import DataLoader
from tensorlite.utils.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

__all__ = [
    "BatchSampler",
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "TensorDataset",
    "default_collate",
    "default_convert",
]
