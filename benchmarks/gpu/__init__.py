"""The cuda dialect on one GPU: parity, accuracy and speed, against transformers and the chip's own bandwidth."""
