"""Whether the archive holds exactly what the simulator handed out: every version, in order, byte for byte."""

import hashlib
from uuid import UUID

from bench.scene import Scene

from orders_backup import db as database

VERSIONS = """
    SELECT v.order_id, v.sha256, v.dictionary_id, v.body, o.sha256 = v.sha256 AS is_newest
      FROM order_versions v JOIN orders o USING (account_id, order_id)
     WHERE v.account_id = :account
     ORDER BY v.order_id, v.version
"""


def differing(scene: Scene, account_id: UUID) -> int:
    """Orders of which a version, their order, their bytes or the head differs from the simulator's truth."""
    stored: dict[str, list[str]] = {}
    newest: dict[str, str] = {}
    codec = scene.runtime.codec
    rows = scene.rows(VERSIONS, account=account_id)
    with database.transaction(scene.runtime.db) as tx:
        for row in rows:
            digest = hashlib.sha256(codec.decompress(tx, row.dictionary_id, row.body)).hexdigest()
            is_sound = digest == row.sha256.hex()
            stored.setdefault(row.order_id, []).append(digest if is_sound else "unsound")
            if row.is_newest:
                newest[row.order_id] = digest
    truth = scene.told("truth", seller_id=scene.seller_id)
    wrong = stored.keys() - truth.keys()
    for order_id, told in truth.items():
        if stored.get(order_id) != told["served"] or newest.get(order_id) != told["current"]:
            wrong.add(order_id)
    return len(wrong)
