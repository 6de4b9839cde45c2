"""Hashes of tensors, by which their content is known again within a run and among runs of one version."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def digest(tensor: Tensor) -> str:
    """Return a hash of a tensor's bytes, shape and type: SHA-256, for which processors have instructions."""
    data = tensor.detach().cpu().contiguous()
    hashed = hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode())
    if data.numel():  # what is empty may have strides that no other type can be seen through
        hashed.update(data.flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:32]


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the digest of each tensor; several are hashed at once, for which Python lets its threads run."""
    with ThreadPoolExecutor() as threads:
        return dict(zip(tensors, threads.map(digest, tensors.values()), strict=True))


def digest_of_all(tensors: Mapping[str, Tensor]) -> str:
    """Return one hash of tensors and their names, in whatever order."""
    return together(digests(tensors))


def together(found: Mapping[str, str]) -> str:
    """Return the hash of all tensors of which the digests are these."""
    named = (f"{name} {each}\n" for name, each in sorted(found.items()))
    return hashlib.sha256("".join(named).encode()).hexdigest()[:32]
