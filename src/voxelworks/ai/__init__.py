"""Networks: their packages, what they predict, how they are trained."""
