"""btfeed takes AppMon's Business Transactions feed over HTTP and delivers every occurrence to files and other sinks.

To understand it, follow a post:

    app         joins the chain; start there
    receiver    takes the post over HTTP, within limits; post says whether it is one. http has the connections, request
                what comes over them
    journal     makes it durable, and remembers how far each sink has come
    mapping     turns it into records: schema names the fields, validate and privacy judge them, names makes names;
                transcode does the same natively, where native/ was built
    feed        maps each post once for all sinks
    batching    cuts what follows a sink's cursor into batches
    delivery    writes them to the sink, retries, keeps dead letters; settlement moves the cursor
    sinks       (the package beside this one) where they go

    config assembles the settings that these modules declare; admin, status and metrics tell how it is; cli and inspect
    are the command line.

Posts also come from, and go to, elsewhere; traffic has the commands:

    replay      recorded posts, from postfile or a journal, out again at a pace
    capture     writes what AppMon posts to a file
    generate    posts of a profile's business process; flows makes its visits
    sending     posts to a url as AppMon does, and counts what became of each
"""
