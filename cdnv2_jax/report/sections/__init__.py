"""The parts of a report, one in each file: figures and networks → a `Section` of the page."""
