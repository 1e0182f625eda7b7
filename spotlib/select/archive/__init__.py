"""SpotLake archives of every form as exact integer counts.

One door: ``counts.read_counts``, with the ``Reading`` it returns and the ``ArchiveError`` it
raises.  Import-linter keeps the other modules behind it.  Read in this order:

==========  =======================================================================
schema      what a snapshot holds in every era: columns, allowed values, interval
counts      the door: one job per day, its cache, the account of what was read
files       where the snapshots lie and when each was taken
day         one day of snapshots, from csv or Parquet, into its matrix
lines       the lines of a csv, and which of them the snapshot before has too
csv_rows    the wanted columns of one csv, some thousand rows at a time
matrix      one byte per pool and snapshot, and the counts of a full day
==========  =======================================================================

An archive is never written to, and no statistic is taken.
"""
