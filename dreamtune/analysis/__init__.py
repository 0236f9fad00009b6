"""Which directions of the weights a subject changes, and how two subjects interfere. Needs only torch."""

from .directions import change_rates, tsd
from .health import Health
from .interference import Advice, advise, crosstalk, free_columns, recorded, total_crosstalk
from .layers import Layer, Pair, Seen, study, summarize
from .projections import Shares
from .trajectory import Prediction, predictions

__all__ = [
    "Advice",
    "Health",
    "Layer",
    "Pair",
    "Prediction",
    "Seen",
    "Shares",
    "advise",
    "change_rates",
    "crosstalk",
    "free_columns",
    "predictions",
    "recorded",
    "study",
    "summarize",
    "total_crosstalk",
    "tsd",
]
