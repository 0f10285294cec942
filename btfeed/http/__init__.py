"""An HTTP/1.1 server for posts, built on llhttp (the httptools package).

Read in this order:

    limits      what one client may occupy, and for how long
    request     one request and its body as it arrives
    parser      from the bytes of a connection to its requests
    chunks      decodes bodies in chunks
    repeated    requests that have the header of an earlier one, which need no parsing
    response    the reply
    refusals    counts and logs what is refused; the caller says whether a post is lost
    state       what all connections share, and which one gives way when there are too many
    connection  one connection: calls the handler for its requests, writes the responses in order
    sockets     what asyncio does not say of a connected socket
    tls         accepts TLS connections; a handshake that fails is a lost post, bad_tls (explained by tls_error). With
                TLS 1.3 a client may fail after it: connection
    server      all connections, and how they end when the server stops
    gunzip      decompression with a size limit
"""
