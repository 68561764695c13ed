"""The error tree: every failure this service names, with its stable code, HTTP status and sentence.

Nothing is raised or handled here. `code` is public and never changes; `status` is what the API answers;
the text of the exception is for a person. Foreign failures are translated into these at the wrappers.
"""

from datetime import datetime


class OrdersBackupError(Exception):
    """Any failure we know by name."""

    code = "internal_error"
    status = 500
    title = "Internal error"


# What the caller did


class InvalidRequestError(OrdersBackupError):
    """A parameter, body or cursor cannot be understood."""

    code = "invalid_request"
    status = 422
    title = "Invalid request"


class NotAuthenticatedError(OrdersBackupError):
    """No API key, or one that is unknown, revoked or expired."""

    code = "not_authenticated"
    status = 401
    title = "Not authenticated"


class MissingScopeError(OrdersBackupError):
    """The API key is known but may not do this."""

    code = "missing_scope"
    status = 403
    title = "Missing scope"


class NotFoundError(OrdersBackupError):
    """There is no such thing, or the key may not see it: both answer alike."""

    code = "not_found"
    status = 404
    title = "Not found"


class AmbiguousOrderError(OrdersBackupError):
    """Several accounts hold an order of this id."""

    code = "ambiguous_order"
    status = 409
    title = "Several accounts hold this order"

    def __init__(self, detail: str, account_ids: list[str]) -> None:
        super().__init__(detail)
        self.account_ids = account_ids


class ConflictError(OrdersBackupError):
    """The thing is in a state that does not allow this."""

    code = "conflict"
    status = 409
    title = "Conflict"


class TooManyRequestsError(OrdersBackupError):
    """The API key asked more often than it may. `retry_after` in seconds."""

    code = "too_many_requests"
    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class IdempotencyKeyReusedError(OrdersBackupError):
    """Another request was sent under the same Idempotency-Key before."""

    code = "idempotency_key_reused"
    status = 422
    title = "Idempotency key reused"


class RequestInProgressError(OrdersBackupError):
    """A request under the same Idempotency-Key is being worked on."""

    code = "request_in_progress"
    status = 409
    title = "Request in progress"


class SettingsError(OrdersBackupError):
    """A setting is missing, unknown or malformed; the text says which and what to write."""

    code = "invalid_settings"
    status = 500
    title = "Invalid settings"


class LocalServiceError(OrdersBackupError):
    """The embedded default cannot start: a port is taken, the data directory is locked, a program is missing."""

    code = "local_service"
    status = 503
    title = "The embedded service cannot start"


# What we rely on


class DatabaseUnavailableError(OrdersBackupError):
    """PostgreSQL does not answer, or dropped the connection; the work stays due."""

    code = "database_unavailable"
    status = 503
    title = "Database unavailable"


class StorageUnavailableError(OrdersBackupError):
    """The object storage does not answer, or refuses us; what was to be put there waits on the disk."""

    code = "storage_unavailable"
    status = 503
    title = "Object storage unavailable"


class BackupDamagedError(OrdersBackupError):
    """A backup is not what was stored: a file is missing or changed, or its chain has a gap."""

    code = "backup_damaged"
    status = 500
    title = "A backup is damaged"


class BackupFailedError(OrdersBackupError):
    """A backup of the database was not made, or not restored: PostgreSQL's own program says why."""

    code = "backup_failed"
    status = 500
    title = "A backup failed"


class DatabaseUnfinishedError(OrdersBackupError):
    """The database was restored, and does not fit the cluster it is in yet; nobody may work on it."""

    code = "database_unfinished"
    status = 503
    title = "The database's restore is not finished"


class SealedValueError(OrdersBackupError):
    """A sealed value cannot be opened: wrong key, or it belongs to another account, generation or field."""

    code = "sealed_value"
    status = 500
    title = "A sealed value cannot be opened"


class LeaseLostError(OrdersBackupError):
    """Another worker took over this work after our lease expired; nothing of ours was written."""

    code = "lease_lost"
    status = 409
    title = "Lease lost"


class StoppingError(OrdersBackupError):
    """This process was asked to end while it worked; the work goes on elsewhere."""

    code = "stopping"
    status = 503
    title = "The process is stopping"


class SyncStoppedError(OrdersBackupError):
    """The account was paused or disconnected while its sync was running; it goes on where it was, once it may."""

    code = "sync_stopped"
    status = 409
    title = "The sync was stopped"


class BudgetExhaustedError(OrdersBackupError):
    """No call may be made before `retry_at`; the work is due again then."""

    code = "budget_exhausted"
    status = 429
    title = "Request budget exhausted"

    def __init__(self, detail: str, retry_at: datetime) -> None:
        super().__init__(detail)
        self.retry_at = retry_at


# What Allegro did


class AllegroError(OrdersBackupError):
    """A call to Allegro failed. `trace_id` is Allegro's own, None where the answer carried none."""

    code = "allegro_error"
    status = 502
    title = "Allegro refused a call"

    def __init__(self, detail: str, *, http_status: int | None = None, trace_id: str | None = None) -> None:
        super().__init__(detail)
        self.http_status = http_status
        self.trace_id = trace_id


class AllegroUnavailableError(AllegroError):
    """5xx, a broken connection, a time-out, or an answer that is not what was asked for."""

    code = "allegro_unavailable"
    status = 503
    title = "Allegro is unavailable"


class AllegroLimitError(AllegroError):
    """429: the client id must be silent. `retry_after` in seconds where Allegro named it."""

    code = "allegro_limit"
    status = 503
    title = "Allegro's request limit was exceeded"

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        http_status: int | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(detail, http_status=http_status, trace_id=trace_id)
        self.retry_after = retry_after


class AllegroUnauthorizedError(AllegroError):
    """401: the access token is dead; refresh once and retry once."""

    code = "allegro_unauthorized"
    status = 502
    title = "Allegro refused the access token"


class AllegroForbiddenError(AllegroError):
    """403: the application or the seller's consent lacks a right."""

    code = "allegro_forbidden"
    status = 502
    title = "Allegro denies access"


class AllegroNotFoundError(AllegroError):
    """404: the order was merged away, is older than 12 months, or is another seller's."""

    code = "allegro_not_found"
    status = 502
    title = "Allegro has no such order"


class AllegroAnswerError(AllegroUnavailableError):
    """The answer is not the JSON it should be: HTML, truncated, or another shape."""

    code = "allegro_answer"
    status = 502
    title = "Allegro's answer cannot be read"


class AllegroUnreadableError(AllegroAnswerError):
    """200 and JSON by its headers, but larger than we take or broken inside, perhaps by one order of many.

    `body`: what arrived, or its beginning where it was too large and so is not `is_whole`.
    """

    code = "allegro_unreadable"
    status = 502
    title = "Allegro's answer is too large or broken"

    def __init__(self, detail: str, body: bytes, *, is_whole: bool = True, http_status: int | None = None) -> None:
        super().__init__(detail, http_status=http_status)
        self.body = body
        self.is_whole = is_whole


class TokenRefusedError(AllegroError):
    """The authorization server answered with an OAuth error; `error` is its code (RFC 6749, 5.2)."""

    code = "token_refused"
    status = 502
    title = "Allegro refused the token request"

    def __init__(self, error: str, *, http_status: int | None = None) -> None:
        super().__init__(f"Allegro's authorization server answered '{error}'.", http_status=http_status)
        self.error = error


class TokenBusyError(OrdersBackupError):
    """Another worker is refreshing this token right now; try again in seconds."""

    code = "token_busy"
    status = 503
    title = "The token is being refreshed"


class ReauthorizationRequiredError(OrdersBackupError):
    """The seller has to connect again; nothing else helps."""

    code = "reauthorization_required"
    status = 409
    title = "The seller has to connect again"


# Whom we tell


class WebhookTargetError(OrdersBackupError):
    """A webhook's name leads to an address that is not of the public internet; nothing was connected to."""

    code = "webhook_target"
    status = 422
    title = "No public address"
