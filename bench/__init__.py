"""Measurements. Each prints ratios within one run: what a machine does in a second says little,
what it does beside another says much.
"""
