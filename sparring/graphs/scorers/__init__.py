"""What says how good a solution is: reward models, judges, probabilities, roll-outs, the truth."""
