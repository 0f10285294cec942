"""btfeed receives AppMon's Business Transactions feed over HTTP and delivers every occurrence to files and other sinks.

To understand it, follow a post. Each package's docstring says what it is for and in which order to read it.

    app         joins the chain; start there
    http        connections and requests
    receiving   takes a post, within limits, and answers 200 once it is durable
    posts       what a post is, and whether it is valid
    journal     keeps posts durable and remembers how far each sink has come
    records     turns a post into records
    delivery    maps each post once, cuts batches, writes them to a sink, retries, saves the sink's cursor
    sinks       (the package beside this one) the destinations

    config      assembles the settings that these packages declare
    commands    the command line
    admin, telemetry
                health, status and metrics
    traffic     recorded and generated posts: replay, capture, generate
    native, address, faults
                the native transcoder, addresses to listen on, faults of a configuration
"""
