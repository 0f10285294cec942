"""Takes posts over HTTP and answers 200 once the journal has made them durable.

Read in this order:

    settings     the [receiver] table: addresses, limits, deadlines, credentials
    receiver     the path of a request, check by check
    rejection    every reason for not answering 200, with its status
    credentials  who may post
    body         reads and decompresses a body within its limits
    memory       how much memory all bodies together may occupy while they arrive
"""
