"""What is wrong with a TLS handshake that failed, and what to do about it."""

import ssl

_HINTS = {
    "HTTP_REQUEST": "the client speaks HTTP: use https:// in its URL",
    "WRONG_VERSION_NUMBER": "what the client sent is not TLS: use https:// in its URL",
    "UNSUPPORTED_PROTOCOL": "the client has only old versions of TLS: allow TLS 1.2 or later in it",
    "VERSION_TOO_LOW": "the client has only old versions of TLS: allow TLS 1.2 or later in it",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the client has only old versions of TLS: allow TLS 1.2 or later in it",
    "NO_SHARED_CIPHER": "the client and btfeed have no cipher in common: update the client's TLS library",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client has no certificate: give it one that tls.client_ca has signed",
    "CERTIFICATE_VERIFY_FAILED": "the client's certificate is not valid: give it one that tls.client_ca has signed",
}
"""By the name that OpenSSL gives the error."""
_DISTRUST = (
    "the client does not trust the certificate: add its CA to the client's trust store, and use a name in its URL that "
)
_DISTRUST += "the certificate has"
_GONE = "the client may not trust the certificate, or may have no version of TLS or cipher in common: see its own log"


def explain(error: OSError) -> dict[str, str]:
    """For the log: `error`, what happened, and `hint`, what to do if that is known."""
    if isinstance(error, ssl.SSLError):
        reason = error.reason or type(error).__name__
        distrust = "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)
        hint = _DISTRUST if distrust else _HINTS.get(reason, "")
        return {"error": reason.lower().replace("_", " ")} | ({"hint": hint} if hint else {})
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return {"error": "the TLS handshake took longer than header_timeout"}
    return {"error": "the client disconnected during the TLS handshake", "hint": _GONE}
