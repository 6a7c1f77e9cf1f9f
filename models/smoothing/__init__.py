"""Randomised smoothing with rejection: answers that are certified within a radius."""

from models.smoothing.certificate import Certificate, Smoothing, certificate
from models.smoothing.votes import REJECTED, count_votes

__all__ = ["REJECTED", "Certificate", "Smoothing", "certificate", "count_votes"]
