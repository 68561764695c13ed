"""Whether the database fits the cluster it is in; one that was filled from a dump does so once its restore is finished.

A new cluster counts its transactions from the beginning. Where rows or cursors carry numbers that it has not given yet,
whatever comes next lies behind them and is passed over for ever: so nobody works on such a database.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.errors import DatabaseUnfinishedError

MARK = "unfinished_restore"
"""A table that stands from before the first row of a dump comes until everything fits."""
_NUMBERED = {"order_changes": "xid", "archives": "cursor_xid", "webhooks": "cursor_xid"}
_UNFINISHED = "Give `orders-backup backup restore-database` again, or empty the database."
_FOREIGN = (
    "The database carries transaction numbers of another cluster: it was restored by other means. Let nothing work on"
    " it, and run `orders-backup backup finish-restore`."
)


def require(db: Engine) -> None:
    """Raises DatabaseUnfinishedError where nobody may work on this database yet."""
    with database.transaction(db) as tx:
        backup_id = begun(tx)
        if backup_id is not None:
            raise DatabaseUnfinishedError(f"The restore of the backup {backup_id} was interrupted. {_UNFINISHED}")
        if is_ahead(tx):
            raise DatabaseUnfinishedError(_FOREIGN)


def require_reached(reached: int, *, below: int) -> None:
    """The same for one position: horizons only rise, unless the cluster is another one."""
    if reached > below:
        raise DatabaseUnfinishedError(_FOREIGN)


def begin(tx: Connection, backup_id: str) -> None:
    """The database is about to be filled from this backup; whoever dies meanwhile leaves that word."""
    end(tx)
    tx.execute(sa.text(f"CREATE TABLE {MARK} (backup_id text NOT NULL)"))
    tx.execute(sa.text(f"INSERT INTO {MARK} VALUES (:backup_id)"), {"backup_id": backup_id})


def begun(tx: Connection) -> str | None:
    """The backup from which the database is being filled; None: from none."""
    if not _exists(tx, MARK):
        return None
    return str(tx.execute(sa.text(f"SELECT backup_id FROM {MARK}")).scalar_one())


def end(tx: Connection) -> None:
    tx.execute(sa.text(f"DROP TABLE IF EXISTS {MARK}"))


def is_ahead(tx: Connection) -> bool:
    """Whether anything carries a transaction's number that this cluster has not given yet."""
    for table, column in _NUMBERED.items():
        query = f"SELECT EXISTS (SELECT FROM {table} WHERE {column} > pg_snapshot_xmax(pg_current_snapshot()))"
        if _exists(tx, table) and tx.execute(sa.text(query)).scalar_one():
            return True
    return False


def _exists(tx: Connection, table: str) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = :table)"
    return bool(tx.execute(sa.text(query), {"table": table}).scalar_one())
