"""Flows: what became of the business processes whose steps are among the records.

To understand it, read these modules in this order.

    definition  what a user writes: the steps of a process, what ties their records together, what a flow is worth
    matching    which records a table of conditions fits
    graph       what may come after which step, and what follows from it
    fields      which fields of records it reads
    options     what a report is asked for: the period, the moment at which it looks, the comparison
    report      the numbers, as dataclasses
    engine      joins the rest: from files of records to a report, to a list of flows, to the trace of one
    duck        the only module that imports DuckDB
    reading     files -> events
    states      events -> flows, each with the time of every step and what became of it
    numbers     flows -> the numbers of a report
    sources     finds files, and brings what DuckDB can't read to files that it can; elastic: documents of Elasticsearch
    as_json     a report as JSON; tables: as CSV; text: for a terminal; words: how these write numbers
    page        a report as one HTML file; pictures and ways: what it draws; svg_files: that alone
    drafts      a definition to begin with, made of a profile of traffic

Every number of a report is defined in docs/flow.md.
"""
