"""Objectives that a measured stage keeps or breaks, for reports, terminals and continuous integration."""
