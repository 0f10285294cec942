"""What an occurrence costs, and how that compares. docs/benchmarks.md says how to use it. The modules:

__main__    the command line
suite       what is measured, in which order; job defines a job and a plan
measuring   costs as ratios to a baseline
load        the posts
stages      each step alone, in a separate process; allocations counts its memory allocations
end_to_end  the whole server; generator sends to it, far_ends count what arrives
black_hole  far ends that do no work; kafka_hole is the one for Kafka's protocol
growth      which costs grow with the backlog, business transactions, sinks, connections and time
bare        a sink beside the bare client that it uses; real_servers has the servers
peers       other servers doing the same work
sources     `btfeed generate` and `btfeed replay`
flows       `btfeed flow` beside a bare scan of its records
bench_stages  the stages and the whole server, at 1,000 occurrences per post
results     the format of a result; compare shows two side by side, findings interprets one, plots and page draw it, and
            figures writes the tables of the documentation
"""
