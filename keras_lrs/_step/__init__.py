"""The optimizer's step, made of parts that each do one thing in every update."""
