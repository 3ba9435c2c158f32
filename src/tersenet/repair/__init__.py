"""Repair: winning back without labels what a removal cost."""
