"""The doctor's knowledge: vital signs, the course of a run, the illnesses and how to tell them apart."""
