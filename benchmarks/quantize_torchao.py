"""torchao's post-training quantisation for x86, simulated: run by a Python that has it.

python benchmarks/quantize_torchao.py float.pt2 calibration.npy images.npy answers.npy
"""

import sys
import warnings

import numpy as np
import torch
from torchao.quantization.pt2e import (  # pyright: ignore[reportMissingImports]
    move_exported_model_to_eval,
)
from torchao.quantization.pt2e.quantize_pt2e import (  # pyright: ignore[reportMissingImports]
    convert_pt2e,
    prepare_pt2e,
)
from torchao.quantization.pt2e.quantizer import (  # pyright: ignore[reportMissingImports]
    x86_inductor_quantizer as x86,
)

BATCH = 64

warnings.simplefilter("ignore")
torch.set_num_threads(1)
source, samples, images, target = sys.argv[1:]
quantizer = x86.X86InductorQuantizer()
quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
model = prepare_pt2e(torch.export.load(source).module(), quantizer)
with torch.no_grad():
    for batch in torch.from_numpy(np.load(samples)).split(BATCH):
        model(batch)
    model = convert_pt2e(model)
    move_exported_model_to_eval(model)
    answers = [model(batch) for batch in torch.from_numpy(np.load(images)).split(BATCH)]
np.save(target, torch.cat(answers).numpy())
