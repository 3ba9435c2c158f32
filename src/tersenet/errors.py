"""Every error tersenet raises on purpose.

Each message is one sentence that states the fact, the place and the way out.

    TersenetError
    ├── RecipeError      a recipe that cannot be understood: names file, line and remedy
    ├── DataError        a data set that is missing, truncated or not the one expected
    ├── WeightsError     a weights file that is missing, truncated, unsafe or of another network
    ├── StructureError   a network whose structure cannot be read, or a change that cannot be proved
    ├── QuantizeError    a range, a bit width or a site that cannot be quantised
    ├── ExportError      a network that cannot be written for a runtime
    │   └── ParityError  the written file does not compute what the network computes
    ├── FormatError      a matrix or a file that cannot be encoded, decoded or multiplied
    ├── MeasureError     a measurement that cannot be taken or trusted
    ├── ResourceError    a step that needs more memory than there is
    ├── PluginError      a part of another package that cannot be loaded, or whose name is taken
    └── RunError         a run folder that cannot be used
"""


class TersenetError(Exception):
    """Base of all errors that tersenet raises on purpose."""


class RecipeError(TersenetError):
    """A recipe that cannot be understood: names file, line and remedy."""


class DataError(TersenetError):
    """A data set that is missing, truncated or not the one expected."""


class WeightsError(TersenetError):
    """A weights file that is missing, truncated, unsafe or of another network."""


class StructureError(TersenetError):
    """A network whose structure cannot be read, or a change that cannot be proved."""


class QuantizeError(TersenetError):
    """A range, a bit width or a site that cannot be quantised."""


class ExportError(TersenetError):
    """A network that cannot be written for a runtime."""


class ParityError(ExportError):
    """The written file does not compute what the network computes."""


class FormatError(TersenetError):
    """A matrix or a file that cannot be encoded, decoded or multiplied."""


class MeasureError(TersenetError):
    """A measurement that cannot be taken or trusted."""


class ResourceError(TersenetError):
    """A step that needs more memory than there is."""


class RunError(TersenetError):
    """A run folder that cannot be used."""


class PluginError(TersenetError):
    """A part of another package that cannot be loaded, or whose name is taken."""
