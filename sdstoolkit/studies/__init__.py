"""What a score can do, measured and drawn: points in the plane, and handwritten digits."""
