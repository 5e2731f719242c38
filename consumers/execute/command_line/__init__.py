"""The verbs whose work lies in this room; `observator.py` mounts them. Heavy imports stay inside the verbs."""
