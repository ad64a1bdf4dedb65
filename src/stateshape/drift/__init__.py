"""How far the states of one policy are from those of another. measure: every distance, with its null and interval.

features, encoders, rulers: what a state is compared by. kernels, fourier, sliced, overlap, classifier, pairwise: the
distances. nulls: permutation and bootstrap. projection: the state map. Imported by study.
"""
