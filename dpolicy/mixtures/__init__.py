"""Mixtures for offline learning: sets recorded from agents that this project trains."""

from dpolicy.mixtures._making import make_mixture as make_mixture
