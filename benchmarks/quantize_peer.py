"""NNCF's post-training quantisation at its defaults, for benchmarks: run by a Python that has it.

python benchmarks/quantize_peer.py float.onnx int8.xml samples.npy
"""

import sys

import nncf  # pyright: ignore[reportMissingImports]
import numpy as np
import openvino

source, target, samples = sys.argv[1:]
data = nncf.Dataset(list(np.load(samples)[:, None]))
model = nncf.quantize(openvino.Core().read_model(source), data, subset_size=512)
openvino.save_model(model, target)
