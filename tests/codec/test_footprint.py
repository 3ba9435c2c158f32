"""A device decodes with NumPy and Numba alone."""

import subprocess
import sys


def test_importing_the_coder_imports_no_torch():
    code = (
        "import sys, numpy as np, tersenet.codec as c;"
        "assert c.decode(c.encode({'w': np.arange(5)}))['w'][4] == 4;"
        "heavy = {'torch', 'onnx', 'pydantic', 'tersenet.core'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
