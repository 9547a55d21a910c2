"""The version of sitq: read by the build, and stored with what sitq writes."""

__version__ = "0.1.0"
