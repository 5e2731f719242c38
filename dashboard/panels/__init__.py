"""The parts of the page, one file per subject: each draws rows of the views database."""
