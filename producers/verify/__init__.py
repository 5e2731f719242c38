"""Checks of this room's promises (`observator verify matching`); what speaks HTTP only lives in `consumers.verify`."""
