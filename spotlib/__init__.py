"""How long EC2 spot instances take from request to ready.

The notebooks call this package; it does no work when imported.  Start with the modules in the
order of the data: ``dataset`` and ``select`` choose targets, ``collect`` measures them,
``store`` reads what was recorded.  ``python -m spotlib --help`` lists what runs without a
notebook.
"""

__version__ = "0.1.0"
