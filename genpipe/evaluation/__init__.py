"""How good a model is: the evaluator, the bench on which samples are scored, the cards of scores, and the report."""
