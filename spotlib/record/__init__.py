"""What is on the disk: one schema of typed events, one writer, one reader; tables out of logs.

Read in this order: ``events`` (the schema: every event of a log as a type), ``log`` (the file, its
lock, torn lines), ``replay`` (what a log says happened), ``tables`` (batches, launches, polls; with
``columns``, ``rows`` and ``polled``), ``history`` (what earlier batches tell the next one),
``selection_file``.
"""
