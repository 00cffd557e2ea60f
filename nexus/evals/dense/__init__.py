"""Evaluations with a truth for every pixel: segmentation and depth on frozen patch tokens."""
