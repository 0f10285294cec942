"""btfeed receives AppMon's Business Transactions feed over HTTP and delivers every occurrence to files and other sinks.

To understand it, follow a post through these packages. Each package's docstring says what it is for and what to read first.

    app         joins the whole chain; start there
    http        connections, requests and responses
    receiving   accepts a post, within limits, and answers 200 once it is durable
    posts       what a post is, and whether it is valid
    journal     keeps posts on disk and remembers how far each sink has come
    records     turns a post into records
    delivery    maps each post once, forms batches, writes them to a sink, retries, saves the sink's cursor
    sinks       (the package beside this one) the destinations

Around that chain:

    config      the configuration, assembled from the settings of these packages
    commands    the command line, which begins with __main__
    admin       health, metrics and status over HTTP
    page        what the admin listener shows in a browser
    telemetry   metrics and logs
    flow        what became of the business processes whose steps are among the records
    traffic     recorded and generated posts: replay, capture, generate
    faults, toml_file, address, signals, early, native, regular_file, inherited, notify, worker
                shared by several packages
    supervisor  the small process that `serve --supervise` becomes: holds the sockets and runs the server as its child.
                With `receive --workers` it runs several, each in a slot
"""
