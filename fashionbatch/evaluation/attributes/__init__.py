"""How good the predicted attributes are: recall of the first ones, average precision."""
