"""What an occurrence costs, and how it compares: docs/benchmarks.md tells how to use it. To understand it:

__main__    the command line
suite       what is measured, in which order; job says what a case and a plan are
measuring   costs beside their own baseline, as ratios
load        the posts
stages      each step alone, in a process of its own; allocations counts what it asks of memory
end_to_end  the whole server; generator sends to it, far_ends count what arrives
black_hole  far ends that do no work; kafka_hole is the one that speaks Kafka's protocol
growth      what costs more with what
bare        a sink beside the bare client that it uses; real_servers has the servers
peers       others at the same work
sources     `btfeed generate` and `btfeed replay`
bench_stages  the stages and the whole server alone, at 1,000 occurrences a post
results     how a result is kept; compare puts two side by side, findings says one in words, plots and page draw it,
            figures tells README.md's
"""
