"""Batteries and availability: what they decide (`core`), and what is done about it (`keeper`)."""
