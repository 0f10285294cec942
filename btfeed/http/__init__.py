"""An HTTP/1.1 server for posts, over llhttp. Read request (one request and its body), then connection."""
