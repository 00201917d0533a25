"""Made from the notebooks by notebook_tools/extract.py: do not edit, change the notebooks."""
