"""Calibration of a cascade: which signal and threshold reach a target, measured on a held-out set."""
