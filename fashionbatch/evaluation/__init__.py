"""How good predictions are: figures, intervals, calibration, comparison."""
