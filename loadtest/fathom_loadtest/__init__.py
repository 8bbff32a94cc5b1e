"""Load tests of models that Fathom serves: Locust users over gRPC, an exact recorder, figures and reports."""

__version__ = "0.1.0"
