"""How good an export is: measured, held against thresholds, written down beside the weights."""
