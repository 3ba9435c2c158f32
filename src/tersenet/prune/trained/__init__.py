"""Methods that train a copy under a penalty before they remove anything.

Doors: `Slimming` (scales of batch norms, then channels go) and `SSS` (a scale on each residual
branch, then blocks go). In comes a subject with training data; out come the plans of `channels`
and `layers`, and edits that begin with the training. `sparse_training` is what both share.
"""

from tersenet.prune.trained.slimming import Slimming
from tersenet.prune.trained.sss import SSS

__all__ = ["SSS", "Slimming"]
