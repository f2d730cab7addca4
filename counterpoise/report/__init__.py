"""The report: one self-contained HTML page, made from one plain dictionary of facts (see ``page``).

Nothing here knows run directories, tables or arms' code; whoever calls ``page.render`` gathers the facts.
"""
