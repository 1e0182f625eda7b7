"""Which targets are worth measuring: the way from a SpotLake archive to a selection file.

Nothing here speaks to EC2 or reads a log of launches.  Read in this order:

==========  =========================================================================
parameters  the parameters of ``01_select``
source      which archive is read; the sandbox writes one where there is none
archive/    snapshots -> exact counts, through one door: ``archive.counts.read_counts``
cov         the CoV math: counts -> ``variation`` -> ``score_targets``
choose      ``choose_targets``, random controls, the selection file
evidence    what a score rests on, and how stable a ranking is
report      the notebook's text and tables
figures     the notebook's figures
==========  =========================================================================
"""
