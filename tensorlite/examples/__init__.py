"""Whole programs, to be read and changed; ``tensorlite train`` runs them. Floor 7."""
