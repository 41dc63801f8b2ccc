"""Bulk prediction: plan, engine, and the loop from images to parts."""
