"""Networks: a backbone with a head, what of it is frozen, and how it is saved."""
