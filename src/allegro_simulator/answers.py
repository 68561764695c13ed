"""Every answer that is not data: headers and error bodies as they were seen on the wire."""

import json
from typing import Any

from allegro_simulator.http import Response

VENDOR = "application/vnd.allegro.public.v1+json"
JSON = "application/json"
HTML = "text/html"

_COMMON = (
    ("expires", "0"),
    ("cache-control", "no-cache, no-store, max-age=0, must-revalidate"),
    ("x-xss-protection", "0"),
    ("pragma", "no-cache"),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("strict-transport-security", "max-age=31536000"),
)
_UNSET: Any = object()


def answer(status: int, body: bytes, content_type: str = VENDOR) -> Response:
    return Response(status, [("content-type", content_type), *_COMMON], body)


def document(status: int, value: Any, content_type: str = JSON) -> Response:
    """An answer with this value as minified JSON."""
    return answer(status, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), content_type)


def page(status: int, html: str) -> Response:
    return answer(status, html.encode(), HTML)


def oauth_error(status: int, error: str, description: str | None = None) -> Response:
    """`{error, error_description}`, the form of the authorization server and of every 401."""
    body = {"error": error}
    if description is not None:
        body["error_description"] = description
    return document(status, body)


def error(
    status: int,
    code: str,
    message: str,
    *,
    details: str | None = None,
    path: str | None = None,
    user_message: str | None = None,
    metadata: Any = _UNSET,
    content_type: str = VENDOR,
) -> Response:
    """`{errors: [...]}`, the form of the API."""
    entry = {"code": code, "message": message, "details": details, "path": path, "userMessage": user_message}
    if metadata is not _UNSET:
        entry["metadata"] = metadata
    return document(status, {"errors": [entry]}, content_type)


def unauthorized_client() -> Response:
    return oauth_error(401, "Unauthorized", "Unauthorized")


def no_token() -> Response:
    return oauth_error(401, "unauthorized", "Full authentication is required to access this resource")


def token_expired(token: str) -> Response:
    return oauth_error(401, "invalid_token", f"Access token expired: {token}")


def token_unreadable() -> Response:
    return oauth_error(401, "invalid_token", "Cannot convert access token to JSON")


def access_denied() -> Response:
    denied = "No access to the specified resource."
    return error(403, "AccessDenied", "Access is denied", user_message=denied, metadata={})


def not_acceptable() -> Response:
    return error(
        406,
        "NotAcceptableException",
        "Not acceptable representation requested. Please check 'Accept' request header",
        user_message="The request contains incorrect data. Contact the author of the application.",
        metadata={},
    )


def form_not_found(form_id: str) -> Response:
    sentence = f"Checkout form {form_id} not found."
    where = f"/order/checkout-forms/{form_id}"
    return error(404, "CheckoutFormNotFoundException", sentence, path=where, user_message=sentence, metadata={})


def no_such_resource(path: str) -> Response:
    return error(404, "NotFoundException", f"No handler found for {path}", path=path, metadata={})


def method_not_allowed(path: str) -> Response:
    return error(405, "MethodNotAllowedException", "Request method not supported", path=path, metadata={})


def bad_date(path: str) -> Response:
    return error(400, "ERROR", "An error has occurred", path=path)


def invalid(parameter: str, value: str, sentence: str) -> Response:
    """A 422 about one parameter."""
    details = f"Invalid value: {value}"
    return error(422, "VALIDATION_ERROR", sentence, details=details, path=parameter, user_message=sentence, metadata={})


def too_deep() -> Response:
    sentence = "Offset and limit parameters exceed maximal result size of 10000 items"
    return error(422, "VALIDATION_ERROR", sentence, path="/order/checkout-forms")


def client_blocked() -> Response:
    return error(
        429,
        "TooManyRequestsException",
        "Too many requests",
        user_message="Too many requests.",
        content_type=JSON,
    )


def resource_limited() -> Response:
    return error(
        429,
        "RateLimitExceedException",
        "An error has occurred",
        user_message="Przekroczony limit zapytań.",
        content_type=JSON,
    )


def token_creation_limited() -> Response:
    sentence = "Failed to create token for client [CLIENT_ID] and user [USER_ID]"
    return oauth_error(429, "token_creation_rate_limit_exceeded", sentence)


def captcha() -> Response:
    return page(403, "<!doctype html><title>You have been blocked</title>")


def gateway_page(status: int) -> Response:
    """The HTML a gateway sends in place of the application's answer."""
    title, sentence = {
        502: ("502 Bad Gateway", "The server returned an invalid or incomplete response."),
        503: ("503 Service Unavailable", "No server is available to handle this request."),
        504: ("504 Gateway Time-out", "The server didn't respond in time."),
    }.get(status, (f"{status} Internal Server Error", "An error occurred."))
    return page(status, f"<html><body><h1>{title}</h1>\n{sentence}\n</body></html>\n")


def server_error(status: int) -> Response:
    if status == 504:
        again = "Query response time exceeded. Try again."
        return error(504, "ServiceTimeoutException", "An error occurred", user_message=again, metadata={})
    later = "Internal server error. Please try again in a few minutes."
    return error(status, "INTERNAL_SERVER_ERROR", "Internal server error.", user_message=later)
