"""Which of several training runs to keep: orders by what measures predict of the generalization gap, and how well they do."""

from dyncompress.pipeline.selection.prediction import PREDICTIONS, Prediction
from dyncompress.pipeline.selection.rank_correlation import Agreement, Correlation, agreement
from dyncompress.pipeline.selection.ranking import Ranking, Row, rank

__all__ = ["PREDICTIONS", "Agreement", "Correlation", "Prediction", "Ranking", "Row", "agreement", "rank"]
