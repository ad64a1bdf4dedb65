"""Where the update is applied: sources of states (dataset; learner or teacher, in sampled; mixtures; recorded).

cuts: where a row is cut. schedules: shares over steps. kept: states that are used again. other_prompts:
of a term about other prompts than the run's. fit: do prompts fit the model?
May sample and read data. Knows no rewards, gradients or losses. Imported by recipes.
"""
