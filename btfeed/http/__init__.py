"""An HTTP/1.1 server for posts, built on llhttp (the httptools package).

Read in this order:

    limits      what one client may occupy, and for how long
    request     one request and its body as it arrives
    response    the reply
    connection  one connection: parses requests, calls the handler, writes the responses in order
    server      all connections of one listener, and how they end when it stops
    gunzip      decompression with a size limit
"""
