"""Takes posts over HTTP and answers 200 once the journal has made them durable.

Read in this order:

    settings     the [receiver] table: addresses, limits, deadlines, credentials
    receiver     the path of a request, check by check, and what is counted of accepted posts, such as duplicates
    rejection    why a request is rejected, and the status of its response
    credentials  who may post
    body         reads and decompresses a body within its limits
    memory       how much memory all bodies together may occupy while they arrive
"""
