"""What a stored version costs on disk, with its row, its indexes and its TOAST."""

from bench.figures import Bound, Outcome
from bench.scene import Scene

BYTES = 700.0

SIZES = """
    SELECT pg_total_relation_size('order_versions') AS versions_bytes,
           pg_indexes_size('order_versions') AS versions_index_bytes,
           (SELECT count(*) FROM order_versions) AS versions,
           (SELECT avg(octet_length(body)) FROM order_versions) AS body_bytes,
           (SELECT avg(size) FROM order_versions) AS wire_bytes,
           pg_total_relation_size('orders') AS orders_bytes,
           pg_total_relation_size('order_changes') AS changes_bytes,
           (SELECT count(*) FROM orders) AS orders,
           pg_database_size(current_database()) AS database_bytes
"""


def measure(scene: Scene) -> Outcome:
    """Bytes for each version of an archive that holds one version of each order."""
    found = scene.rows(SIZES)[0]
    bounds = {"bytes_per_version": Bound(found.versions_bytes / found.versions, BYTES)}
    figures: dict[str, object] = {
        "versions": found.versions,
        "index_bytes_per_version": found.versions_index_bytes / found.versions,
        "compressed_body_bytes": float(found.body_bytes),
        "wire_body_bytes": float(found.wire_bytes),
        "orders_table_bytes_per_order": found.orders_bytes / found.orders,
        "changes_table_bytes_per_order": found.changes_bytes / found.orders,
        "database_mb": found.database_bytes / 2**20,
    }
    return Outcome("storage", scene.orders, bounds, figures)
