"""The body of `measure`: what every choice of every unit costs, and the distortion that it is predicted to cause."""
