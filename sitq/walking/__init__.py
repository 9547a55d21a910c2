"""The walk behind :mod:`sitq.versions`: from a function to all of the user's own code that it reaches."""
