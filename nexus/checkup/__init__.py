"""nexus.doctor: a run, or another tool's log, examined."""

from nexus.checkup.examination import Examination, doctor

__all__ = ["Examination", "doctor"]
