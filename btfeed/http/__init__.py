"""An HTTP/1.1 server for posts, built on llhttp (the httptools package).

Read in this order:

    limits      what one client may occupy, and for how long
    request     one request and its body as it arrives
    chunks      decodes bodies in chunks
    response    the reply
    refusals    counts what is refused, and tells of lost posts
    state       what all connections share, and which one gives way when there are too many
    connection  one connection: parses requests, calls the handler, writes the responses in order
    sockets     listening sockets
    tls         accepts TLS connections, and says why a handshake failed (tls_error)
    server      all connections, and how they end when the server stops
    gunzip      decompression with a size limit
"""
